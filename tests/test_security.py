"""Nothing from outside is unpickled, and no text becomes a shell command."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path
    for package in ("search", "trainables", "spaces", "benchmarks", "examples")
    for path in (ROOT / package).rglob("*.py")
]
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib", "marshal"}


def offences(source: str) -> list[str]:
    """What a file does that no file may do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            found += [f"imports {name}" for name in names if (name or "").split(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if called.endswith("load") and given.get("allow_pickle") == "True":
            found.append(f"{called} with allow_pickle=True")
        if given.get("shell") == "True" or called in ("os.system", "os.popen", "eval", "exec"):
            found.append(f"{called}, which runs text")
        if called == "tarfile.open" or called.endswith(".extractall"):
            found.append(f"{called}: members may leave their folder")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_does_what_none_may_do(path: Path) -> None:
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "archive.extractall(folder)",
    ],
)
def test_the_check_sees_what_it_is_for(source: str) -> None:
    assert len(offences(source)) == 1
