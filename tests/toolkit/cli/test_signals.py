"""Ctrl-C, closed pipes, full and narrow streams, a folder that is gone: the right exit code, one line, no traceback.

In process where a fault can be brought about there; as real processes, marked slow, where it takes a signal or stream.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from fptk.cli import doctor
from fptk.core.errors import FptkError, InputError, missing_package

Fptk = Callable[..., Any]


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Make ``fptk doctor`` do something else."""
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda action: monkeypatch.setattr(doctor, "command", click.Command("doctor", callback=action))
    signal.signal(signal.SIGINT, handler)


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def swallowed(instead: BaseException) -> Callable[[], None]:
    """Ctrl-C comes, and whoever gets it makes another error of it."""

    def action() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise instead from None

    return action


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("action", "code", "line"),
    [
        (raising(KeyboardInterrupt()), 130, "fptk: interrupted"),
        (raising(click.Abort()), 130, "fptk: interrupted"),
        (swallowed(KeyboardInterrupt()), 130, "fptk: interrupted"),
        (swallowed(missing_package("onnxruntime", "onnx")), 130, "fptk: interrupted"),
        (swallowed(ImportError("numpy.core.multiarray failed to import")), 130, "fptk: interrupted"),
        (swallowed(SystemError("returned NULL without setting an exception")), 130, "fptk: interrupted"),
        (raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), 141, ""),
        (raising(FULL), 2, "fptk: cannot write the output: No space left on device; free space and try again"),
        (raising(MemoryError()), 2, "fptk: this machine has not enough memory"),
        (raising(InputError("a\nb \x1b[31m\u202e\u2028 zoé")), 2, "fptk: a\\nb \\x1b[31m\\u202e\\u2028 zoé"),
    ],
)
def test_command_that_ends_early(
    fptk: Fptk, doing: Callable[[Any], None], action: Callable[[], None], code: int, line: str
) -> None:
    doing(action)
    finished = fptk("doctor")
    assert finished.code == code
    assert finished.err.strip().startswith(line)
    assert len(finished.err.splitlines()) == bool(line)


def test_saved_training_keeps_its_line_and_code_after_ctrl_c(fptk: Fptk, doing: Callable[[Any], None]) -> None:
    error = FptkError("training stopped after step 3")
    error.exit_code = 130
    doing(swallowed(error))
    finished = fptk("doctor")
    assert (finished.code, finished.err) == (130, "fptk: training stopped after step 3\n")


def test_bug_keeps_its_traceback(fptk: Fptk, doing: Callable[[Any], None]) -> None:
    doing(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        fptk("doctor")


def test_handler_of_ctrl_c_is_put_back(fptk: Fptk, doing: Callable[[Any], None]) -> None:
    doing(lambda: None)
    assert fptk("doctor").code == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_wrong_option_cannot_act_on_the_terminal(fptk: Fptk) -> None:
    finished = fptk("train", "--\x1b[31m\nx")
    assert finished.code == 2
    assert "\x1b" not in finished.err
    assert "\\x1b[31m\\nx" in finished.err


def test_training_stops_at_once_on_a_second_ctrl_c(tmp_path: Path) -> None:
    from fptk.core.progress import Listener, Update
    from fptk.recipes import Recipe
    from fptk.training import train
    from fptk.training.interrupt import ONE_PRESS, TrainingInterruptedError

    class Impatient(Listener):
        @contextmanager
        def counting(self, what: str, total: int, *, still: bool = False) -> Iterator[Update]:
            def update(done: int, text: str | None = None) -> None:
                if done:  # to this thread: one that another thread gets is handled only after the sleep
                    signal.raise_signal(signal.SIGINT)
                    time.sleep(ONE_PRESS + 0.1)
                    signal.raise_signal(signal.SIGINT)

            yield update

    keys = ["data.synthetic={train: 8, val: 1, size: 32}", "data.size=32", "data.batch=2"]
    recipe = Recipe.load("demo").with_overrides([*keys, "optim.max_steps=4"])
    with pytest.raises(TrainingInterruptedError, match="stopped at once; it can go on from step 0 with") as caught:
        train(recipe, [], tmp_path / "run", listener=Impatient())
    assert caught.value.exit_code == 130
    assert train(recipe, [], tmp_path / "run", resume=True, stop_after=1).step == 1


FPTK = [sys.executable, "-m", "fptk"]
TRAIN = [*FPTK, "train", "--size=32", "--batch=4", "--set=data.synthetic={train: 4000, val: 2, size: 32}"]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0])
def test_ctrl_c_while_packages_are_imported(tmp_path: Path, seconds: float) -> None:
    process = start([*TRAIN, "--out=run"], tmp_path)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("fptk: ")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "synth", "--out=faces", "--count=100000", "--size=64"],
        ["ablate", "lmsa", "--no-engines", "--size=64", "--out=table"],
    ],
    ids=["synth", "ablate"],
)
def test_ctrl_c_in_other_commands(tmp_path: Path, arguments: list[str], seconds: float) -> None:
    process = start([*FPTK, *arguments], tmp_path)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "presses"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_signal_saves_the_state(tmp_path: Path, number: int, presses: int) -> None:
    process = start([*TRAIN, "--out=run"], tmp_path)
    wait_for((tmp_path / "run" / "resume.safetensors").exists)
    time.sleep(1)
    for _ in range(presses):
        os.killpg(process.pid, number)
        time.sleep(0.05)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("fptk: training stopped after step ")
    step = last.split()[5]
    resumed = start([*FPTK, "train", "--resume", "--out=run", "--stop-after=1"], tmp_path)
    assert f"resuming run at step {step} of" in resumed.communicate(timeout=120)[1]
    assert resumed.returncode == 0


@pytest.mark.slow
def test_killed_holder_frees_the_folder_and_a_living_one_is_named(tmp_path: Path) -> None:
    first = start([*TRAIN, "--out=run"], tmp_path)
    wait_for((tmp_path / "run" / "resume.safetensors").exists)
    resume = [*FPTK, "train", "--resume", "--out=run", "--stop-after=1"]
    second = start(resume, tmp_path)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 2
    assert f"run folder run is in use by process {first.pid} on " in said.splitlines()[-1]
    first.kill()
    first.communicate()
    third = start(resume, tmp_path)
    assert third.communicate(timeout=120)[1].splitlines()
    assert third.returncode == 0


@pytest.mark.slow
def test_training_killed_before_its_card_is_whole_can_start_again(tmp_path: Path) -> None:
    """SIGKILL between the temporary file and its renaming."""
    code = (
        "import os, sys, pathlib, fptk.cli\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        f"sys.argv = {['fptk', *TRAIN[3:], '--out=run', '--stop-after=1']!r}\n"
    )
    killed = start([sys.executable, "-c", code + "fptk.cli.main()"], tmp_path)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "run").iterdir()]
    assert left
    assert "run.json" not in left
    again = start([*TRAIN, "--out=run", "--stop-after=1"], tmp_path)
    said = again.communicate(timeout=120)[1]
    assert again.returncode == 0, said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"] is None
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("doctor >&-", 0, ""),
        ("doctor >&- 2>&-", 0, ""),
        ("doctor <&- >&- 2>&-", 0, ""),
        ("doctor >/dev/full", 2, "fptk: cannot write the output: No space left on device"),
        ("--help >/dev/full", 2, "fptk: cannot write the output: No space left on device"),
        ("--version >/dev/full", 2, "fptk: cannot write the output: No space left on device"),
        ("doctor | exit 0", 141, ""),
        ("--help | exit 0", 141, ""),
    ],
)
def test_streams(tmp_path: Path, line: str, code: int, said: str) -> None:
    shell = f"set -o pipefail; {sys.executable} -m fptk {line}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_stream_of_a_narrow_encoding(tmp_path: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for arguments, code in ((["doctor"], 0), (["train", "--recipe", "zoé/面.yaml"], 2)):
        done = subprocess.run(
            [*FPTK, *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False
        )  # fmt: skip
        assert done.returncode == code
        assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_working_folder_that_is_gone(tmp_path: Path) -> None:
    shell = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m fptk doctor"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "fptk: the working folder has been deleted; change into another one\n"


def children_of(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_a_killed_table_leaves_no_training_running(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fptk",
        "ablate",
        "lmsa",
        "--size",
        "64",
        "--train-images",
        "16",
        "--epochs",
        "500",
    ]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "table")], stderr=subprocess.DEVNULL)
    trainings: list[int] = []
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("table/**/run.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    trainings = children_of(process.pid)
    assert trainings
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in trainings) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in trainings if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.glob("table/**/resume.safetensors")), "its state was not saved"
