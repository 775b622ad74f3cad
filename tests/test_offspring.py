"""What a watched script starts: ranks and spawned processes have traces of their own, workers have none."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mpaudit.runtime.child.sitecustomize import split, trains
from mpaudit.runtime.trace import Reader

pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]
TRAIN = """
import os
import sys
import torch
from torch import nn

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        workers = torch.utils.data.get_worker_info()
        hooked = len(nn.modules.module._global_forward_hooks)
        wrapped = "__wrapped__" in vars(torch.Tensor.backward)
        ours = [name for name in sys.modules if name.startswith("mpaudit.")]
        if workers is not None and sys.argv[1:] == ["spawn"]:
            assert not ours, ours
        if workers is not None:
            assert not hooked and not wrapped
        return torch.full((12,), 0.1 * index), index % 4

def train(steps, workers=None):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    if torch.distributed.is_initialized():
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    context = {} if workers is None else {"num_workers": 1, "multiprocessing_context": workers}
    loader = torch.utils.data.DataLoader(Data(), batch_size=2, **context)
    for (inputs, labels), _ in zip(loader, range(steps)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    total = sum(each.double().sum().item() for each in model.parameters())
    sys.stdout.write(f"{total} {sys.argv} {sys.path[0]}\\n")  # at once: other ranks write, too
    sys.stdout.flush()
"""
ONE = TRAIN + "\nif __name__ == '__main__':\n    train(5, sys.argv[1])\n"
RANKS = (
    TRAIN
    + """
if __name__ == "__main__":
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    train(4)
"""
)
SPAWNING = (
    TRAIN
    + """
def rank(number, steps):
    torch.distributed.init_process_group(
        "gloo", init_method="file://" + os.path.abspath("rendezvous" + steps), rank=number, world_size=2
    )
    train(3)

if __name__ == "__main__":
    torch.multiprocessing.start_processes(rank, ("a",), nprocs=2, start_method=sys.argv[1])
    bad = torch.multiprocessing.get_context(sys.argv[1]).Process(target=sys.exit, args=(7,))
    bad.start()
    bad.join()
    print(bad.exitcode)
"""
)
LAUNCHER = """
import os, subprocess, sys
ranks = [
    subprocess.Popen(
        [sys.executable, "-u", "-X", "faulthandler", *sys.argv[1:]],
        env={**os.environ, "LOCAL_RANK": str(number), "WORLD_SIZE": "2"},
    )
    for number in range(2)
]
sys.exit(max(abs(each.wait()) for each in ranks))
"""


def start(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """`python COMMAND`, with the virtual environment's programs on the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return start(folder, "-m", "mpaudit", "run", *command)


def traces(folder: Path) -> list[tuple[str, dict, int]]:
    """The traces of a folder: name, facts, steps of the first optimizer."""
    found = []
    for path in sorted(folder.glob("*.mpa")):
        with Reader(path) as trace:
            assert trace.meta["probe_errors"] == []
            assert trace.meta["complete"] is True
            steps = max((each.last + 1 for each in trace.attempts()), default=0)
            found.append((path.name, trace.meta, steps))
    return found


@pytest.mark.parametrize(
    ("line", "own", "kind", "program"),
    [
        ("python train.py -c x", "", "", "train.py -c x"),
        ("python -u -X dev -W error train.py -u", "-u -X dev -W error", "", "train.py -u"),
        ("python -uXdev -Werror -m pkg.train --lr 1", "-uXdev -Werror", "m", "pkg.train --lr 1"),
        ("python -um pkg a", "-u", "m", "pkg a"),
        ("python -mpkg a", "", "m", "pkg a"),
        ("python -c pass --multiprocessing-fork", "", "c", "pass --multiprocessing-fork"),
        (
            *("python --check-hash-based-pycs always -B x.py", "--check-hash-based-pycs always -B"),
            *("", "x.py"),
        ),
        ("python -u -", "-u", "", "-"),
        ("python", "", "", ""),
    ],
)
def test_a_command_line_of_python(line: str, own: str, kind: str, program: str) -> None:
    assert split(line.split()) == (own.split(), kind, program.split())


def test_who_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = ["from multiprocessing.spawn import spawn_main; ...", "--multiprocessing-fork"]
    assert trains("", ["train.py"])
    assert trains("m", ["project.train", "--lr=1"])
    assert not trains("c", spawned)
    monkeypatch.setenv("MPAUDIT_SPAWN", "1")
    assert trains("c", spawned)
    assert not trains("c", spawned)  # what it starts itself is not marked
    tools = [Path(sys.executable).with_name("torchrun"), shutil.__file__, "site-packages/x/y.py"]
    assert not any(trains("", [str(tool)]) for tool in tools)
    others = ["torch.distributed.run", "pip", "http.server", "mpaudit"]
    assert not any(trains("m", [module]) for module in others)
    assert not any(trains("", program) for program in ([], ["-"]))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_loader_are_left_alone(tmp_path: Path, method: str) -> None:
    (tmp_path / "train.py").write_text(ONE, encoding="utf-8")
    watched, plain = run(tmp_path, "train.py", method), start(tmp_path, "train.py", method)
    assert watched.returncode == plain.returncode == 0, watched.stderr
    assert watched.stdout == plain.stdout
    ((_, _, steps),) = traces(tmp_path)
    assert steps == 5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_multiprocessing_starts_to_train_has_traces(tmp_path: Path, method: str) -> None:
    (tmp_path / "train.py").write_text(SPAWNING, encoding="utf-8")
    watched = run(tmp_path, "-o", "out.mpa", "train.py", method)
    shutil.rmtree(tmp_path / "rendezvousa", ignore_errors=True)
    (tmp_path / "rendezvousa").unlink(missing_ok=True)
    plain = start(tmp_path, "train.py", method)
    assert watched.returncode == plain.returncode == 0, watched.stderr
    assert sorted(watched.stdout.splitlines()) == sorted(plain.stdout.splitlines())
    assert "2 processes left traces" in watched.stderr
    found = traces(tmp_path)
    assert [steps for _, _, steps in found] == [3, 3]
    assert {meta["script"] for _, meta, _ in found} == {str(tmp_path / "train.py")}
    assert {(meta["rank"], meta["world_size"], meta["exit_code"]) for _, meta, _ in found} == {
        (0, 2, 0),
        (1, 2, 0),
    }


def test_a_launchers_ranks_have_traces_and_the_launcher_has_none(tmp_path: Path) -> None:
    (tmp_path / "launcher.py").write_text(LAUNCHER, encoding="utf-8")
    (tmp_path / "train.py").write_text(
        TRAIN
        + "\nif __name__ == '__main__':\n    train(2)\n    os._exit(0) if 0 else sys.exit(3)\n",
        encoding="utf-8",
    )
    plain = start(tmp_path, "launcher.py", "train.py", "a")
    for options in ((), ("-o", "out.mpa")):
        watched = run(tmp_path, *options, "launcher.py", "train.py", "a")
        assert (watched.returncode, watched.stdout) == (plain.returncode, plain.stdout)
        assert watched.returncode == 3, watched.stderr
        assert watched.stderr.count("mpaudit:") == 1
    first, second, *given = traces(tmp_path)
    assert [name.rpartition(".r")[2] for name, *_ in (first, second)] == ["0.mpa", "1.mpa"]
    assert [name for name, *_ in given] == ["out.r0.mpa", "out.r1.mpa"]
    for _, meta, steps in (first, second, *given):
        assert (steps, meta["argv"], meta["exit_code"], meta["world_size"]) == (2, ["a"], 3, 2)


def test_a_child_that_cannot_be_traced_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    """A script that is no Python, and one whose trace cannot be written; a sitecustomize is run."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nprint('customized', file=sys.stderr)\n")
    (tmp_path / "broken.py").write_text("if x\n")
    (tmp_path / "fine.py").write_text("import sys\nprint(sys.argv, sys.path[0])\n")
    body = """
import os, subprocess, sys
environment = {**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"] + os.pathsep + os.getcwd()}
for name in ("broken.py", "fine.py"):
    print(subprocess.run([sys.executable, name, "a"], env=environment, capture_output=True, text=True))
os.mkdir("precious.r7.mpa")
environment |= {"RANK": "7", "WORLD_SIZE": "8"}
print(subprocess.run([sys.executable, "fine.py"], env=environment, capture_output=True, text=True))
"""
    (tmp_path / "parent.py").write_text(body, encoding="utf-8")
    watched = run(tmp_path, "-o", "precious.mpa", "parent.py")
    (tmp_path / "precious.r7.mpa").rmdir()
    plain = start(tmp_path, "parent.py")
    assert plain.stdout.count("customized") == 3
    assert watched.stdout.replace("customized\\ncustomized", "customized") == plain.stdout
    assert watched.returncode == plain.returncode == 0
    assert [path.name for path in tmp_path.glob("*.mpa") if path.is_file()] == ["precious.mpa"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "ranks"),
    [
        ("-m mpaudit run torchrun --nproc-per-node 2 train.py a", 2),
        ("-m torch.distributed.run --nproc-per-node 2 -m mpaudit run train.py a", 2),
        (
            "-m mpaudit run accelerate launch --cpu --num_processes 1 --num_machines 1 "
            "--mixed_precision no --dynamo_backend no train.py a",
            1,
        ),
    ],
    ids=["inside", "outside", "accelerate"],
)
def test_torchrun_and_accelerate(tmp_path: Path, command: str, ranks: int) -> None:
    (tmp_path / "train.py").write_text(RANKS, encoding="utf-8")
    done = start(tmp_path, *command.split())
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == ranks
    assert len(set(done.stdout.splitlines())) == 1
    found = traces(tmp_path)
    assert all("-train.py." in name for name, *_ in found)
    assert [(meta["rank"], meta["world_size"], steps) for _, meta, steps in found] == [
        (number, ranks, 4) for number in range(ranks)
    ]
    if ranks > 1:
        assert [name.rpartition(".r")[2] for name, *_ in found] == ["0.mpa", "1.mpa"]


RUNNER = """#!{python}
import os, subprocess, sys
command = [sys.executable, "-u", "-m", "deepspeed.launcher.launch", "--world_info=e30=", *sys.argv[1:]]
paths = os.pathsep.join([{folder!r}, os.environ["PYTHONPATH"]])
sys.exit(subprocess.Popen(command, env={{**os.environ, "PYTHONPATH": paths}}).wait())
"""
LAUNCH = """
import os, subprocess, sys
_, script, *given = sys.argv[1:]
ranks = []
for number in range(2):
    environment = {**os.environ, "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "@"}
    command = [sys.executable, "-u", script, f"--local_rank={number}", *given]
    ranks.append(subprocess.Popen(command, env=environment))
sys.exit(max(each.wait() for each in ranks))
"""


@pytest.mark.slow
def test_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's launcher where it is installed; else two programs of its shape, with its names.

    `deepspeed` starts a module of its own, which starts the script once for each rank with
    `--local_rank=N` before the script's arguments.
    """
    real = find_spec("deepspeed") is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ["--num_gpus", "2", "--master_port", port] if real else []
    if real:
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        monkeypatch.setenv("LOCAL_SIZE", "2")  # as many as the CPU accelerator says it has
    else:
        package = tmp_path / "lib" / "deepspeed" / "launcher"
        package.mkdir(parents=True)
        (package / "launch.py").write_text(LAUNCH.replace("@", port), encoding="utf-8")
        program = tmp_path / "bin" / "deepspeed"
        program.parent.mkdir()
        text = RUNNER.format(python=sys.executable, folder=str(tmp_path / "lib"))
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    (tmp_path / "train.py").write_text(RANKS, encoding="utf-8")
    done = run(tmp_path, "deepspeed", *options, "train.py", "--lr", "1")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if re.match(r"-?\d", line)]
    assert sorted(line.split("'")[3] for line in told) == ["--local_rank=0", "--local_rank=1"]
    assert len({line.split()[0] for line in told}) == 1  # the same parameters in both
    found = traces(tmp_path)
    assert [(meta["rank"], meta["world_size"], steps) for _, meta, steps in found] == [
        (0, 2, 4),
        (1, 2, 4),
    ]
    assert {meta["script"] for _, meta, _ in found} == {str(tmp_path / "train.py")}
    assert "2 processes left traces" in done.stderr


LIGHTNING = """
import sys
import lightning
import torch

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(12, 4)

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    data = torch.utils.data.TensorDataset(torch.randn(24, 12), torch.randint(4, (24,)))
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy=sys.argv[1], max_epochs=1, **quiet
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_what_lightning_starts_by_itself(tmp_path: Path, strategy: str) -> None:
    pytest.importorskip("lightning")
    (tmp_path / "train.py").write_text(LIGHTNING, encoding="utf-8")
    done = run(tmp_path, "-o", "out.mpa", "train.py", strategy)
    assert done.returncode == 0, done.stderr
    found = traces(tmp_path)  # 24 samples, 4 at a time, by 2 processes
    assert [(meta["world_size"], steps) for _, meta, steps in found] == [(2, 3), (2, 3)]
    assert {meta["rank"] for _, meta, _ in found} == {0, 1}
    with Reader(tmp_path / found[0][0]) as trace:
        assert "net" in {each.path for each in trace.layers()}


@pytest.mark.slow
def test_the_ranks_of_a_launcher_run_corrected_text(tmp_path: Path) -> None:
    mistake = """
import sys
import torch

model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
for _ in range(3):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(torch.randn(8, 4)).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
sys.stdout.write("done\\n")
"""
    (tmp_path / "launcher.py").write_text(LAUNCHER, encoding="utf-8")
    (tmp_path / "train.py").write_text(mistake, encoding="utf-8")
    alone = start(tmp_path, "launcher.py", "train.py")
    assert (alone.returncode, alone.stdout) == (1, "")
    fixed = run(tmp_path, "--fix", "launcher.py", "train.py")
    assert (fixed.returncode, fixed.stdout) == (0, "done\n" * 2), fixed.stderr
    assert fixed.stderr.count("runs a corrected copy of train.py: missing-scaler-update") == 2
    assert [(meta["source_edited"], steps) for _, meta, steps in traces(tmp_path)] == [
        (True, 3)
    ] * 2
    assert (tmp_path / "train.py").read_text(encoding="utf-8") == mistake
