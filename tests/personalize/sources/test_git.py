import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personalize.errors import SourceError
from personalize.sources import git, git_log
from personalize.sources.git import from_git, git_authors
from personalize.sources.records import MAX_ANSWER_CHARS, MAX_PROMPT_CHARS

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Repository:
    """A real repository that git itself writes, from one stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run("init", "--quiet", "--initial-branch=main", str(path), inside=False)

    def run(self, *arguments: str, text: bytes = b"", inside: bool = True) -> str:
        command = ["git", *(["-C", str(self.path)] if inside else []), *arguments]
        return subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True).stdout.decode().strip()

    def commit(
        self,
        message: str | bytes,
        *,
        author: str = "Ana <ana@example.org>",
        minutes: int = 0,
        files: tuple[str, ...] = ("a.py",),
        seconds: str | None = None,
        extra_parents: tuple[str, ...] = (),
    ) -> str:
        """Make a commit on main and return its id."""
        when = seconds or f"{int((NOON + timedelta(minutes=minutes)).timestamp())} +0000"
        body = message if isinstance(message, bytes) else message.encode()
        parts = [
            f"commit refs/heads/main\nmark :1\nauthor {author} {when}\ncommitter C <c@example.org> 1714564800 +0000\n"
        ]
        data = "".join(parts).encode() + f"data {len(body)}\n".encode() + body + b"\n"
        if self.has_commits():
            data += b"from refs/heads/main^0\n"
        data += "".join(f"merge {parent}\n" for parent in extra_parents).encode()
        for file in files:
            content = os.urandom(8).hex().encode()
            data += f'M 100644 inline "{file}"\ndata {len(content)}\n'.encode() + content + b"\n"
        self.run("fast-import", "--quiet", "--date-format=raw-permissive", text=data)
        return self.run("rev-parse", "main")

    def has_commits(self) -> bool:
        return bool(self.run("for-each-ref", "refs/heads/main"))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def answers(path: Path, author: str | None = None) -> list[str]:
    return [record.answer for record in from_git(path, author)]


def refusal(path: Path, author: str | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        from_git(path, author)
    return str(caught.value)


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_commits_of_the_most_active_author_become_records_in_author_time(repository: Repository) -> None:
    zone = timezone(timedelta(hours=2))
    local = datetime(2024, 5, 3, 9, 30, tzinfo=zone)
    repository.commit("Add parser\n\nIt reads two forms.\n", minutes=5, files=("src/parser.py", "tests/test_parser.py"))
    repository.commit("Written earlier, committed later", minutes=1, files=("b.py",))
    repository.commit("By another", author="Bob <bob@example.org>", minutes=2)
    repository.commit("Local time", seconds=f"{int(local.timestamp())} +0200")
    records = from_git(repository.path)
    assert [record.answer for record in records] == [
        "Written earlier, committed later",
        "Add parser\n\nIt reads two forms.",
        "Local time",
    ]
    assert records[1].prompt == "src/parser.py\ntests/test_parser.py"
    assert records[1].at == NOON + timedelta(minutes=5)
    assert records[2].at == datetime(2024, 5, 3, 7, 30, tzinfo=UTC)
    assert answers(repository.path, " BOB@Example.org ") == ["By another"]


def test_authors_are_ranked_by_their_commits_without_merges_and_programs(repository: Repository) -> None:
    first = repository.commit("One")
    repository.commit("Two")
    repository.commit("Three", author="Bob <bob@example.org>")
    repository.commit("Merge branch 'x'", author="Bob <bob@example.org>", extra_parents=(first,))
    for index in range(5):
        repository.commit(f"Bump {index}", author="dependabot[bot] <1+dependabot[bot]@users.noreply.github.com>")
    assert git_authors(repository.path) == [("ana@example.org", 2), ("bob@example.org", 1)]
    assert answers(repository.path, "bob@example.org") == ["Three"]


def test_repeats_merge_texts_trailers_and_pull_request_numbers_are_taken_away(repository: Repository) -> None:
    repository.commit("Update docs", minutes=1, files=("a",))
    repository.commit("Update docs", minutes=2, files=("b",))
    repository.commit("Merge pull request #3 from x/y", minutes=3)
    repository.commit(
        "Fix crash (#123)\n\nIt did.\n\nSigned-off-by: Ana <ana@example.org>\nCo-authored-by: Eve <eve@example.org>\n",
        minutes=4,
    )
    repository.commit("...", minutes=5)
    assert answers(repository.path) == ["Update docs", "Fix crash\n\nIt did."]


def test_a_person_with_two_addresses_is_one_person_where_a_mailmap_says_so(repository: Repository) -> None:
    (repository.path / ".mailmap").write_text("Ana <ana@example.org> <old@example.org>\n")
    repository.commit("Old", author="Ana <old@example.org>", minutes=1)
    repository.commit("New", author="Ana <ana@example.org>", minutes=2)
    assert git_authors(repository.path) == [("ana@example.org", 2)]
    assert answers(repository.path, "old@example.org") == answers(repository.path) == ["Old", "New"]


def test_an_author_is_compared_as_text_not_as_a_pattern(repository: Repository) -> None:
    repository.commit("Mine", author="A <a.b+c@example.org>")
    repository.commit("Not mine", author="B <aXb+c@example.org>")
    repository.commit("Not mine either", author="a.b+c@example.org <other@example.org>")
    assert answers(repository.path, "a.b+c@example.org") == ["Mine"]
    for pattern in (".*", "a.b", "a.b+c@example.org\n", "--all", "-", "a\0b", "\ud800"):
        if pattern.strip() != "a.b+c@example.org":
            assert "has 0 commits by" in refusal(repository.path, pattern)


def test_many_files_are_shortened_to_whole_names_and_a_count(repository: Repository) -> None:
    repository.commit("Short names", minutes=1, files=tuple(f"f{index:03}" for index in range(50)))
    repository.commit("Long names", minutes=2, files=tuple(f"{index:03}" + "x" * 180 for index in range(9)))
    short, long = from_git(repository.path)
    assert short.prompt.split("\n") == [*(f"f{index:03}" for index in range(git.MAX_FILES)), "… and 30 more"]
    assert [len(line) for line in long.prompt.split("\n")] == [183] * 5 + [len("… and 4 more")]
    assert len(long.prompt) <= MAX_PROMPT_CHARS


def test_strange_file_names_and_messages_come_through_as_plain_text(repository: Repository) -> None:
    repository.commit(
        b"Caf\xe9 \x1b[31mred\x1b[0m\r\n\r\n\xff\xfe body", files=("ünï côde/ß.py", "tab\\tname", "line\\nbreak")
    )
    (record,) = from_git(repository.path)
    assert record.answer.endswith("body")
    assert "\x1b" not in record.answer + record.prompt
    assert "ünï côde/ß.py" in record.prompt


def test_the_newest_commits_are_kept_where_there_are_more_than_the_limit(repository: Repository) -> None:
    for index in range(6):
        repository.commit(f"Commit {index}", minutes=index)
    assert [record.answer for record in from_git(repository.path, limit=2)] == ["Commit 4", "Commit 5"]


def test_a_huge_message_is_cut(repository: Repository) -> None:
    repository.commit("Paste\n\n" + "word " * 400_000)
    (record,) = from_git(repository.path)
    assert MAX_ANSWER_CHARS - 5 <= len(record.answer) <= MAX_ANSWER_CHARS


def test_commits_with_a_date_outside_the_calendar_are_left_out(repository: Repository) -> None:
    repository.commit("Far future", seconds="99999999999999999 +0000")
    repository.commit("Fine")
    assert answers(repository.path) == ["Fine"]


def test_commits_without_files_or_text_do_not_confuse_the_others(repository: Repository) -> None:
    repository.commit("No files", files=(), minutes=1)
    repository.commit("", files=("x", "y"), minutes=2)
    repository.commit("", files=(), minutes=3)
    repository.commit("Files again", files=("z",), minutes=4)
    found = {record.answer: record.prompt for record in from_git(repository.path)}
    assert found == {"No files": "", "Files again": "z"}


def test_a_bare_repository_and_a_folder_inside_one_can_be_read(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Hello")
    bare = tmp_path / "bare.git"
    repository.run("clone", "--quiet", "--bare", str(repository.path), str(bare))
    (repository.path / "sub").mkdir()
    assert answers(bare) == answers(repository.path / "sub") == ["Hello"]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(messages=st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_messages_give_records_or_one_clear_line(tmp_path: Path, messages: list[str]) -> None:
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    repository = Repository(tmp_path / "any")
    for index, message in enumerate(messages):
        repository.commit(message, minutes=index, files=("f",))
    try:
        outcome: str | list[str] = [record.prompt for record in from_git(repository.path)]
    except SourceError as refused:
        outcome = str(refused)
    assert ";" in outcome if isinstance(outcome, str) else set(outcome) == {"f"}


# --- what is refused -------------------------------------------------------------------------------------------------


def test_no_folder_no_repository_and_no_commits_are_refused(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "plain").mkdir()
    assert refusal(tmp_path / "none").endswith("none does not exist; give the folder of a git repository")
    assert refusal(tmp_path / "nul\0l").endswith("does not exist; give the folder of a git repository")
    assert refusal(tmp_path / "file").endswith("file is a file; give the folder of a git repository")
    assert refusal(tmp_path / "plain").endswith("is not a git repository; give the folder that holds .git")
    assert refusal(repository.path).endswith("has 0 commits; give a repository with commits")


def test_an_author_without_commits_is_refused_with_up_to_three_who_have(repository: Repository) -> None:
    for index, name in enumerate("abcd"):
        for number in range(index + 1):
            repository.commit(f"Commit {number}", author=f"{name} <{name}@example.org>")
    assert refusal(repository.path, "eve@example.org").endswith(
        "has 0 commits by eve@example.org; choose an author it has: "
        "d@example.org (4), c@example.org (3), b@example.org (2), …"
    )


def test_a_repository_of_programs_only_is_refused(repository: Repository) -> None:
    repository.commit("Bump", author="renovate[bot] <r@example.org>")
    assert "has 0 commits by people; give a repository with commits" in refusal(repository.path)


def test_missing_git_is_refused(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed or not on the PATH; install it, or give" in refusal(repository.path)


def test_a_damaged_repository_is_refused_with_gits_own_reason(repository: Repository) -> None:
    for index in range(3):
        repository.commit(f"Commit {index}")
    lost = repository.run("rev-parse", "main~1")
    (repository.path / ".git/objects" / lost[:2] / lost[2:]).unlink()
    assert refusal(repository.path).startswith(f"git cannot read {repository.path} (")
    assert "; check it with `git -C" in refusal(repository.path)


@pytest.mark.skipif(sys.platform == "win32", reason="uses a shell script as a slow git")
def test_a_git_that_hangs_is_stopped(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(git_log, "MAX_SECONDS", 0.2)
    assert "git took more than 0 seconds to read" in refusal(repository.path)


def test_no_process_is_left_behind_when_the_reader_has_had_enough(repository: Repository) -> None:
    for index in range(3):
        repository.commit(f"Commit {index}")
    fields = git_log.git_log(repository.path, "--format=%B")
    assert next(fields).startswith("Commit")
    fields.close()  # A process not waited for would be a ResourceWarning, which is an error here.


# --- what a hostile repository or surrounding cannot do --------------------------------------------------------------


@pytest.fixture
def trap(repository: Repository, tmp_path: Path) -> Path:
    """A repository whose configuration names programs; the file that they would write."""
    sprung, program = tmp_path / "sprung", tmp_path / "trap.sh"
    program.write_text(f"#!/bin/sh\necho $0 >> {sprung}\nexit 1\n")
    program.chmod(0o700)
    commit = repository.commit("Signed", files=("a.py", "b.py"))
    body = repository.run("cat-file", "commit", commit)
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n"
    signed = repository.run(
        "hash-object", "-t", "commit", "-w", "--stdin", text=body.replace("\n\n", "\n" + signature, 1).encode()
    )
    repository.run("update-ref", "refs/heads/main", signed)
    (repository.path / ".git/info/attributes").write_text("* diff=trap\n")
    for setting in (
        "core.fsmonitor", "core.pager", "core.sshCommand", "core.editor", "gpg.program", "pager.log",
        "diff.external", "diff.trap.textconv", "diff.trap.command", "sequence.editor",
    ):  # fmt: skip
        repository.run("config", setting, str(program))
    for setting in ("log.showSignature", "core.hooksPath", "format.pretty", "log.follow", "color.ui"):
        value = {"core.hooksPath": str(tmp_path), "format.pretty": "raw", "color.ui": "always"}.get(setting, "true")
        repository.run("config", setting, value)
    return sprung


@pytest.mark.skipif(sys.platform == "win32", reason="uses a shell script as a trap")
def test_no_program_that_a_repository_names_is_started(repository: Repository, trap: Path) -> None:
    (record,) = from_git(repository.path)
    assert (record.answer, record.prompt) == ("Signed", "a.py\nb.py")
    assert not trap.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="uses a shell script as a trap")
def test_a_careless_call_of_git_would_be_seen(
    repository: Repository, trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    careless = tuple(option for option in git_log._OPTIONS if option != "--no-show-signature")
    monkeypatch.setattr(git_log, "_OPTIONS", careless)
    monkeypatch.setattr(git_log, "_CONFIGURATION", {})
    from_git(repository.path)
    assert trap.exists()


def test_nothing_is_fetched_for_a_partial_clone(repository: Repository, tmp_path: Path) -> None:
    repository.commit("Hello")
    repository.run("config", "uploadpack.allowFilter", "true")
    partial, url = tmp_path / "partial", f"file://{repository.path}"
    repository.run("clone", "--quiet", "--no-checkout", "--filter=tree:0", url, str(partial))
    before = sorted(partial.rglob(".git/objects/**/*"))
    assert refusal(partial).startswith("git cannot read")
    assert sorted(partial.rglob(".git/objects/**/*")) == before


def test_fetching_would_be_seen(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = {name: value for name, value in git_log._CONFIGURATION.items() if name != "protocol.allow"}
    monkeypatch.setattr(git_log, "_CONFIGURATION", allowed)
    environment = {name: value for name, value in git_log._environment().items() if name != "GIT_NO_LAZY_FETCH"}
    monkeypatch.setattr(git_log, "_environment", lambda: environment)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_nothing_is_fetched_for_a_partial_clone(repository, tmp_path)


def test_a_repository_of_another_account_can_be_read_for_it_was_named(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit("Hello")
    clean = git_log._environment
    monkeypatch.setattr(git_log, "_environment", lambda: clean() | {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"})
    assert answers(repository.path) == ["Hello"]
    monkeypatch.setattr(git_log, "_CONFIGURATION", {})
    assert "dubious ownership" in refusal(repository.path)


def test_variables_and_settings_of_the_user_change_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository.commit("Hello", files=("a", "b"))
    other = Repository(tmp_path / "other")
    other.commit("Another repository")
    settings_file = tmp_path / "gitconfig"
    settings_file.write_text("[log]\nshowRoot = false\n[core]\nquotePath = true\n[i18n]\nlogOutputEncoding = latin1\n")
    for name, value in {
        "GIT_DIR": str(other.path / ".git"),
        "GIT_WORK_TREE": str(other.path),
        "GIT_CONFIG_GLOBAL": str(settings_file),
        "GIT_TRACE": "2",
        "GIT_PAGER": "false",
        "GIT_LITERAL_PATHSPECS": "nonsense",
        "LC_ALL": "de_DE.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    (record,) = from_git(repository.path)
    assert (record.answer, record.prompt) == ("Hello", "a\nb")
