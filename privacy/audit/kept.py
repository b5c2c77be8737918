"""An audit in, a file in a folder out; and the folder in, the newest audits out: what labels and reports may cite."""

from __future__ import annotations

import json
from pathlib import Path

from privacy.audit.findings import AuditReport
from privacy.errors import AuditError
from privacy.versions import engine_digest
from privacy.whole_file import write_whole

__all__ = ["keep", "kept_audits", "newest_audit"]

MAX_AUDIT_BYTES = 1024 * 1024  # An audit is about 10 KB.


def keep(report: AuditReport, folder: Path) -> Path:
    """Write `report` into `folder`, whole or not at all, and return its file; its name sorts by time.

    Raises:
        ReportError: It cannot be written.
    """
    file = folder / f"audit-{report.at[:19].replace(':', '')}.json"
    write_whole(file, json.dumps(report.to_dict(), indent=1))
    return file


def kept_audits(folder: Path, *, most: int = 10) -> list[AuditReport]:
    """Return the newest audits that `keep` wrote into `folder`, oldest first.

    Raises:
        AuditError: One of them cannot be read; the line names its file.
    """
    found = []
    for file in sorted(folder.glob("audit-*.json"))[-most:]:
        try:
            with file.open("rb") as opened:
                written = opened.read(MAX_AUDIT_BYTES + 1)
            if len(written) > MAX_AUDIT_BYTES:
                raise ValueError("too long")
            found.append(AuditReport.from_dict(json.loads(written)))
        except (OSError, ValueError, RecursionError) as cause:
            raise AuditError(f"the audit kept in {file} cannot be read; delete that file and audit again") from cause
    return found


def newest_audit(folder: Path, *, engine: str | None = None) -> AuditReport | None:
    """Return the audit that a label should cite, None where this engine was never audited.

    It is the newest one that trained with canaries, since only that has a lower bound; but if the newest of all failed,
    it is that one.

    Args:
        folder: Where `keep` wrote.
        engine: Digest of the engine in question; None: the one that runs here. Audits of others do not count.

    Raises:
        AuditError: As `kept_audits`.
    """
    wanted = engine or engine_digest()
    audits = [audit for audit in kept_audits(folder) if audit.versions.get("engine") == wanted]
    if not audits or not audits[-1].passed:
        return audits[-1] if audits else None
    return next((audit for audit in reversed(audits) if audit.canaries is not None), audits[-1])
