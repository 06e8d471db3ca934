from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fptk.core.errors import InputError
from fptk.core.files import (
    atomic_file,
    atomic_folder,
    check_destination,
    check_pictures,
    check_unread,
    drawn_by,
    kind_of,
    make_folder,
    open_regular,
    parse_json,
    png_mark,
    read_json,
    replace_folder,
    restore_folder,
    sha256_file,
    sha256_json,
    sweep_folders,
    temporary_folder,
    write_json,
    write_text,
    writing,
)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skipped where this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("a small file system can't be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_after(path: Path, error: type[BaseException]) -> None:
    """Write half of something to ``path``, then fail."""
    path.write_text("half")
    raise error


def test_file_appears_whole_with_its_suffix_and_parents(tmp_path):
    path = tmp_path / "a" / "b" / "c.png"
    with atomic_file(path) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.name.startswith("."), "readers of the folder must not see it"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert entries(path.parent) == ["c.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_file_leaves_the_old_one_and_no_trace(tmp_path, error):
    path = tmp_path / "c.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as temporary:
        fail_after(temporary, error)
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["c.txt"]


def test_what_a_killed_writer_left_is_used_again(tmp_path):
    program = """
import os, signal, sys
from pathlib import Path
from fptk.core.files import atomic_file
with atomic_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of something long")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "a.txt"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert len(entries(tmp_path)) == 1
    write_text(path, "x")
    assert entries(tmp_path) == ["a.txt"]
    assert path.read_text() == "x"


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as first:
        first.write_text("first")
        with atomic_file(path) as second:
            assert first != second
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert entries(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("there", ["folder", "link"])
def test_what_stands_under_the_temporary_name_stays(tmp_path, there):
    path, mine = tmp_path / "a.txt", tmp_path / ".a.tmp.txt"
    (tmp_path / "precious").write_text("precious")
    mine.mkdir() if there == "folder" else mine.symlink_to("precious")
    write_text(path, "x")
    assert path.read_text() == "x"
    assert (tmp_path / "precious").read_text() == "precious"
    assert entries(tmp_path) == [mine.name, "a.txt", "precious"]


def test_empty_files_can_be_written_and_a_forgotten_one_replaces_nothing(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="nothing was written"), atomic_file(path):
        pass
    assert path.read_text() == "old"
    write_text(path, "")
    assert path.read_text() == ""
    assert entries(tmp_path) == ["a.txt"]


def test_folder_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "bundle"
    for content in ("old", "new"):
        with atomic_folder(path) as temporary:
            (temporary / content).write_text(content)
    assert entries(path) == ["new"]
    assert entries(tmp_path) == ["bundle"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_failed_folder_leaves_the_old_one_and_no_trace(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        fail_after(temporary / "half", RuntimeError)
    assert entries(path) == ["old"]
    assert entries(tmp_path) == ["bundle"]


KILLED = """
import os, signal, sys
from pathlib import Path
import fptk.core.files
from fptk.core.files import atomic_folder
fptk.core.files._swap = lambda first, second: False
left, rename = int(sys.argv[2]), Path.rename
def rename_or_die(self, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)
Path.rename = rename_or_die
with atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "new").touch()
"""


@pytest.mark.parametrize(("renames", "found"), [(0, ["old"]), (1, ["old"]), (2, ["new"])])
def test_folder_survives_a_kill_at_each_rename(tmp_path, renames, found):
    """Where the system cannot swap two folders in one step."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").touch()
    code = subprocess.run([sys.executable, "-c", KILLED, str(path), str(renames)], check=False).returncode
    assert code == (0 if renames == 2 else -9)
    restore_folder(path)
    assert entries(path) == found
    with atomic_folder(path) as temporary:
        (temporary / "next").touch()
    assert entries(path) == ["next"]
    assert not (tmp_path / ".bundle.old").exists()


KILLED_AT_THE_SWAP = """
import os, signal, sys
from pathlib import Path
import fptk.core.files
swap = fptk.core.files._swap
def swap_and_die(first, second):
    if sys.argv[2] == "after" and not swap(first, second):
        sys.exit(3)
    os.kill(os.getpid(), signal.SIGKILL)
fptk.core.files._swap = swap_and_die
with fptk.core.files.atomic_folder(Path(sys.argv[1])) as temporary:
    (temporary / "new").touch()
"""


@pytest.mark.parametrize(("moment", "found"), [("before", ["old"]), ("after", ["new"])])
def test_the_swap_leaves_no_moment_without_a_folder(tmp_path, moment, found):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").touch()
    code = subprocess.run([sys.executable, "-c", KILLED_AT_THE_SWAP, str(path), moment], check=False).returncode
    if code == 3:
        pytest.skip("this system or file system cannot swap two folders in one step")
    assert code == -9
    assert entries(path) == found, "before anything was restored"
    assert len(entries(tmp_path)) == 2, "the kill left a temporary folder"
    sweep_folders(tmp_path)
    assert entries(tmp_path) == ["bundle"]


def test_sweep_leaves_the_folders_of_living_processes(tmp_path):
    program = """
import sys
from pathlib import Path
from fptk.core.files import temporary_folder
with temporary_folder(Path(sys.argv[1]), "bundle") as folder:
    print(folder.name, flush=True)
    sys.stdin.read()
"""
    (tmp_path / ".mine.tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        with temporary_folder(tmp_path, "other") as ours:
            sweep_folders(tmp_path)
            assert entries(tmp_path) == sorted([".mine.tmp", theirs, ours.name])
        other.kill()
    assert entries(tmp_path) == sorted([".mine.tmp", theirs])
    with temporary_folder(tmp_path, "next") as folder:
        assert entries(tmp_path) == sorted([".mine.tmp", folder.name])
    assert entries(tmp_path) == [".mine.tmp"]


def test_kill_after_the_second_rename_keeps_the_new_folder(tmp_path):
    for name in ("bundle", ".bundle.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name.strip(".")).touch()
    restore_folder(tmp_path / "bundle")
    assert entries(tmp_path) == ["bundle"]
    assert entries(tmp_path / "bundle") == ["bundle"]


def test_folder_never_replaces_a_file(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with temporary_folder(tmp_path, "x") as temporary, pytest.raises(InputError, match="a file of that name"):
        replace_folder(temporary, tmp_path / "mine")
    assert entries(tmp_path) == ["mine"]
    assert (tmp_path / "mine").read_text() == "precious"


def test_full_device_is_one_line():
    path = Path("/dev/full")
    if not path.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(InputError, match="cannot write /dev/full: no space left") as caught, writing(path):
        path.write_text("x")
    assert caught.value.exit_code == 2


def test_full_disk_leaves_the_old_file_and_no_trace(mount):
    path = mount / "a.txt"
    write_text(path, "old")
    with pytest.raises(InputError, match="no space left on the device"):
        write_text(path, "x" * 200_000)
    assert path.read_text() == "old"
    assert entries(mount) == ["a.txt"]
    with pytest.raises(InputError, match="no space left"), atomic_folder(mount / "bundle") as temporary:
        (temporary / "engine").write_bytes(bytes(200_000))
    assert entries(mount) == ["a.txt"]


def test_read_only_file_system_is_one_line(mount):
    write_text(mount / "a.txt", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    for write in (write_text, write_json):
        with pytest.raises(InputError, match=r"cannot write .*a\.txt: the file system is read-only"):
            write(mount / "a.txt", "new")
    with pytest.raises(InputError, match="read-only"):
        make_folder(mount / "out")
    with pytest.raises(InputError, match="read-only"):
        make_folder(mount)
    with pytest.raises(InputError, match="read-only"), atomic_folder(mount / "out"):
        pass
    assert (mount / "a.txt").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG])
def test_refusals_of_the_system_are_input_errors(tmp_path, code):
    with pytest.raises(InputError, match="choose another --out"), writing(tmp_path / "x"):
        raise OSError(code, "refused")


def test_other_system_errors_stay_bugs(tmp_path):
    with pytest.raises(OSError, match="odd"), writing(tmp_path):
        raise OSError(errno.EBADF, "odd")


def test_path_through_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        make_folder(tmp_path / "file" / "out")
    with pytest.raises(InputError, match="a file of that name is in the way"):
        make_folder(tmp_path / "file")
    with pytest.raises(InputError):
        write_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(InputError, match="folder is in the way"):
        write_text(tmp_path, "x")
    with pytest.raises(InputError, match="too long"):
        make_folder(tmp_path / ("n" * 300))


def test_make_folder_creates_parents_and_leaves_nothing_in_it(tmp_path):
    assert entries(make_folder(make_folder(tmp_path / "a" / "b"))) == []


def test_json_round_trip_and_refusals(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"miou": 0.5, "names": ["a", None]})
    assert read_json(path, "run") == {"miou": 0.5, "names": ["a", None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"miou": float("nan")})
    assert json.loads(path.read_text())["miou"] == 0.5
    with pytest.raises(InputError, match=r"run .* does not exist"):
        read_json(tmp_path / "none.json", "run")
    for content in (b"{", b"", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable JSON file") as caught:
            read_json(path, "run")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 65 + "]" * 65, "nests deeper than 64"),
        ('{"a":' * 50_000, "nests deeper than 64"),
        ("NaN", "NaN is no JSON number"),
        ("[1, -Infinity]", "-Infinity is no JSON number"),
        ("-1e400", "the number -1e400 is too large"),
        ("1" * 41, "is too long"),
        ("9" * 10_000, "is too long"),
        ("[1,]", "Expecting|Illegal"),
        (b'"\xff"', "utf-8"),
    ],
)
def test_json_that_is_not_trusted(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_json_within_the_bounds():
    assert parse_json("[" * 64 + "1" + "]" * 64)
    assert parse_json(str(2**128 - 1)) == 2**128 - 1
    assert parse_json("[1e308, 5e-324, -0.0]") == [1e308, 5e-324, 0.0]


def test_json_of_a_fifo_or_device_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        with pytest.raises(InputError, match="it is a FIFO, device or socket"):
            read_json(path, "run")
        with pytest.raises(OSError, match="not a regular file"):
            sha256_file(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_kinds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    found = [kind_of(tmp_path / name) for name in ("", "file", "pipe", "none", "file/below")]
    assert found == ["folder", "file", "other", None, None]
    for name, reason in (("loop", "its links lead in a circle"), ("n" * 300, "the name is too long")):
        with pytest.raises(InputError, match=f"input .* cannot be read: {reason}"):
            kind_of(tmp_path / name, "input")


def test_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.txt").write_text("old")
    (tmp_path / "far" / "a.txt").chmod(0o600)
    (tmp_path / "link").symlink_to("far/a.txt")
    (tmp_path / "link of a link").symlink_to("link")
    write_text(tmp_path / "link of a link", "new")
    assert (tmp_path / "far" / "a.txt").read_text() == "new"
    assert (tmp_path / "far" / "a.txt").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "link").is_symlink()
    assert entries(tmp_path / "far") == ["a.txt"]


def test_socket_is_no_place_for_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for write in (lambda path: write_text(path, "x"), check_destination):
            with pytest.raises(InputError, match="cannot write socket: it is a device"):
                write(Path("socket"))
    assert entries(tmp_path) == ["socket"]


def test_long_names_can_be_written(tmp_path):
    path = tmp_path / ("n" * 250 + ".txt")
    write_text(path, "x")
    assert path.read_text() == "x"


def test_errors_name_the_option(tmp_path):
    for write in (
        lambda: write_json(tmp_path, 1, option="--json"),
        lambda: write_text(tmp_path, "", option="--json"),
        lambda: check_destination(tmp_path, "--json"),
    ):
        with pytest.raises(InputError, match="choose another --json"):
            write()


def test_check_destination_leaves_nothing(tmp_path):
    check_destination(tmp_path / "a" / "b" / "c.json")
    assert entries(tmp_path) == []
    with pytest.raises(InputError, match="cannot write /proc/x/y: a part of the path does not exist"):
        check_destination(Path("/proc/x/y"))


def test_check_destination_of_a_read_only_file_system(mount):
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    with pytest.raises(InputError, match="the file system is read-only"):
        check_destination(mount / "a" / "b")


def test_missing_input_inside_a_write_stays_a_bug(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out" / "a.txt") as temporary:
        temporary.write_bytes((tmp_path / "elsewhere" / "input").read_bytes())


def test_pictures_know_who_drew_them(tmp_path):
    for name in ("predict", "eval"):
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png", pnginfo=png_mark(name))
    Image.new("L", (8, 8)).save(tmp_path / "mine.png")
    Image.new("L", (8, 8)).save(tmp_path / "photo.jpg", comment="fptk predict")
    assert [name for name in entries(tmp_path) if drawn_by(tmp_path / name, "predict")] == ["predict.png"]
    check_pictures([tmp_path / "predict.png", tmp_path / "new.png"], "predict")
    for name in ("eval.png", "mine.png", "photo.jpg"):
        with pytest.raises(InputError, match=rf"{name} exists and is not by fptk predict; choose another --sheet"):
            check_pictures([tmp_path / "predict.png", tmp_path / name], "predict", option="--sheet")
        check_pictures([tmp_path / name], "predict", overwrite=True)


def test_what_is_read_is_known_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "data/masks/b.png", "other/c.png"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    Path("hard.png").hardlink_to("in/a.png")
    Path("soft.png").symlink_to("in/a.png")
    Path("folder").symlink_to("data")
    Path("loop").symlink_to("loop")
    reads = [Path("in/a.png"), Path("data"), Path("none"), Path("loop")]
    for name in ("in/a.png", "in/../in/a.png", "hard.png", "soft.png", "data/masks/b.png", "folder/masks/b.png"):
        with pytest.raises(InputError, match="is read by this command and would be written over"):
            check_unread([Path("other/c.png"), Path(name)], reads)
    check_unread([Path("other/c.png"), Path("data/new.png"), Path("in/new.png")], reads)


def test_hashes_are_sha256_of_content_and_of_canonical_json(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert sha256_json({"b": 1, "a": [2]}) == sha256_json({"a": [2], "b": 1})
    assert sha256_json({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()


def test_folders_that_race_for_one_name_end_whole(tmp_path: Path) -> None:
    """Several exports into one folder: each puts its own bundle there, none fails, and one of them stays."""
    import threading

    target, faults = tmp_path / "bundle", []

    def replace(number: int) -> None:
        try:
            for turn in range(40):
                with atomic_folder(target) as folder:
                    for name in ("a", "b"):
                        (folder / name).write_text(f"{number} {turn}")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert (target / "a").read_text() == (target / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
