"""A page in, what a real browser lays out out: overflow, clashing letters and empty drawings at several widths."""

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

__all__ = ["BROWSER", "needs_browser", "printed", "seen"]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")

# The page in a frame of each width, and the frame's own layout read out: the page itself forbids every script.
PROBE = """<!doctype html><meta charset="utf-8"><body><script>
const page = PAGE, found = {};
async function look(width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0;color-scheme:SCHEME`;
  frame.srcdoc = page;
  await new Promise(done => { frame.onload = done; document.body.append(frame); });
  const inside = frame.contentDocument, root = inside.documentElement;
  const name = e => e.tagName + "." + (e.className.baseVal ?? e.className);
  const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
  const plots = [...inside.querySelectorAll("svg.plot")], clash = [];
  for (const plot of plots) {
    const texts = [...plot.querySelectorAll("text")].map(t => [t.textContent, box(t)]);
    texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([two, b]) => {
      if (a[0] < b[2] - 1 && b[0] < a[2] - 1 && a[1] < b[3] - 3 && b[1] < a[3] - 3) clash.push([one, two]);
    }));
  }
  found[width] = {
    overflow: root.scrollWidth - width,
    wide: [...inside.querySelectorAll("body *")].filter(e => box(e)[2] > width + 0.5).map(name),
    clash,
    plots: plots.map(p => { const b = box(p); return [b[2] - b[0], b[3] - b[1]]; }),
    shapes: plots.map(p => [...p.querySelectorAll("rect:not(.track),path,circle")].filter(
      s => s.getBoundingClientRect().width > 0).length),
    paper: inside.defaultView.getComputedStyle(inside.body).backgroundColor,
  };
}
(async () => {
  for (const width of WIDTHS) await look(width);
  document.body.textContent = JSON.stringify(found);
})();
</script></body>"""


def browse(folder: Path, page: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the browser without a window on a file; it can use no profile of the machine."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    environment = {**os.environ, "HOME": str(folder)}
    command += [*words, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def printed(folder: Path, page: str) -> bytes:
    """The PDF that a reader gets by printing `page`."""
    source, paper = folder / "page.html", folder / "page.pdf"
    source.write_text(page, encoding="utf-8")
    done = browse(folder, source, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    assert paper.exists(), done.stderr[-2000:]
    return paper.read_bytes()


def seen(folder: Path, page: str, widths: Sequence[int], *, scheme: str = "light") -> dict[str, Any]:
    """What a headless browser makes of `page` at each width, in a light or dark scheme."""
    outer, source = folder / "outer.html", json.dumps(page).replace("</", "<\\/")
    written = PROBE.replace("SCHEME", scheme).replace("WIDTHS", json.dumps(list(widths))).replace("PAGE", source)
    outer.write_text(written, encoding="utf-8")
    done = browse(folder, outer, "--window-size=1400,1000", "--virtual-time-budget=10000", "--dump-dom")
    body = re.search(r"<body>(.*)</body>", done.stdout, re.S)
    assert body, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(body[1]))
    return found
