"""The rules of the house, each as a test over the source: the style of CONTRIBUTING, wherever code can tell.

Assumptions: the packages are `framework`, `launch` and `partitioners` in the repository's root; `benchmarks` and
`tools` follow most of the rules as well. Exceptions are named here, each with its reason.
"""

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("framework", "launch", "partitioners")
LONGEST_FILE = 400  # the guide is 300: a file between them is to be looked at, not to be split for a number
LONGEST_FUNCTION = 60

BASES = {"Protocol", "Module", "Function", "Exception", "Generic", "MessagePassing"}
"""What a class may inherit from (the last where ours is measured against PyG); an error also from another of ours."""
UNPICKLES = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
CHANGING = {"append", "add", "update", "extend", "insert", "pop", "clear", "remove", "setdefault"}
"""Methods that change what they are called on."""
FORBIDDEN_CALLS = {"torch.load", "torch.save", "dist.all_gather_object", "dist.broadcast_object_list"}
GENERATORS = re.compile(
    r"^(torch\.(rand|randn|randint|randperm|bernoulli|multinomial|normal)|(np|numpy)\.random\.\w+)$"
)
"""Draws from a stream, which nobody can repeat out of order. `framework.random` has the keyed ones."""


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


every_file = pytest.mark.parametrize("path", files(*PACKAGES, "benchmarks", "tools"), ids=name_of)
every_module = pytest.mark.parametrize("path", files(*PACKAGES), ids=name_of)


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child


def classes(node: ast.AST) -> Iterator[ast.ClassDef]:
    for child in ast.walk(node):
        if isinstance(child, ast.ClassDef):
            yield child


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute; the function's name of a call; of a subscript what is subscripted."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    return ""


def imported(node: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere beneath `node`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module


@every_file
def test_a_file_begins_with_what_it_is(path: Path) -> None:
    text = path.read_text()
    if text.startswith("#!"):
        text = text.partition("\n")[2]
    assert text.startswith('"""'), "the first line is to be a docstring"
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    assert len(first.split()) >= 3
    assert first.endswith((".", "!", ":", ";")), f"the first line is no sentence: {first!r}"


@every_module
def test_a_file_is_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@every_file
def test_a_function_fits_a_screen(path: Path) -> None:
    long = {
        f"{function.name} ({function.end_lineno - function.lineno + 1} lines)"
        for function in functions(tree(path))
        if function.end_lineno and function.end_lineno - function.lineno + 1 > LONGEST_FUNCTION
    }
    assert not long


def public(node: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions, classes and their methods without a leading underscore."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


@every_file
def test_whatever_is_public_has_a_docstring(path: Path) -> None:
    bare = {node.name for node in public(tree(path)) if not ast.get_docstring(node)}
    assert not bare


@every_file
def test_no_public_function_takes_any_keyword(path: Path) -> None:
    loose = {
        node.name for node in public(tree(path)) if not isinstance(node, ast.ClassDef) and node.args.kwarg is not None
    }
    assert not loose


def decorator(node: ast.ClassDef, name: str) -> ast.expr | None:
    return next((each for each in node.decorator_list if dotted(each).split(".")[-1] == name), None)


def arguments(call: ast.expr | None) -> dict[str, object]:
    if not isinstance(call, ast.Call):
        return {}
    return {word.arg: word.value.value for word in call.keywords if word.arg and isinstance(word.value, ast.Constant)}


@every_file
def test_dataclasses_take_keywords_alone(path: Path) -> None:
    """All but a value of one field, where the keyword would say nothing."""
    loose = set()
    for node in classes(tree(path)):
        call = decorator(node, "dataclass")
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        if call is not None and not arguments(call).get("kw_only") and len(fields) > 1:
            loose.add(node.name)
    assert not loose


MUTABLE = {
    "framework/engine/progress.py": {"Progress"},  # how far a run has come: what the loop counts
}
"""Dataclasses that are state rather than values."""


@every_module
def test_public_dataclasses_are_frozen(path: Path) -> None:
    mutable = {
        node.name
        for node in classes(tree(path))
        if (call := decorator(node, "dataclass")) is not None
        and not arguments(call).get("frozen")
        and not node.name.startswith("_")
    }
    assert mutable == MUTABLE.get(name_of(path), set())


@every_module
def test_every_field_of_a_public_dataclass_is_documented(path: Path) -> None:
    """By the string under it, which `--help` shows; a value of one field is documented by its class."""
    bare = set()
    for node in classes(tree(path)):
        if decorator(node, "dataclass") is None or node.name.startswith("_"):
            continue
        fields = [position for position, item in enumerate(node.body) if isinstance(item, ast.AnnAssign)]
        for position in fields if len(fields) > 1 else []:
            after = node.body[position + 1] if position + 1 < len(node.body) else None
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            target = node.body[position].target  # type: ignore[attr-defined]
            if not documented and not target.id.startswith("_"):
                bare.add(f"{node.name}.{target.id}")
    assert not bare


@every_file
def test_composition_instead_of_inheritance(path: Path) -> None:
    heirs = {
        f"{node.name}({dotted(base)})"
        for node in classes(tree(path))
        for base in node.bases
        if dotted(base).split(".")[-1] not in BASES and not dotted(base).endswith("Error")
    }
    assert not heirs


@every_module
def test_no_mutable_state_in_a_module(path: Path) -> None:
    """A module's names are constants: nothing is rebound by `global`, and a mutable constant is never changed."""
    content = tree(path)
    assert not [node for node in ast.walk(content) if isinstance(node, ast.Global)]
    containers = {
        target.id
        for node in content.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Dict | ast.Set | ast.DictComp)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    changed = {name for node in ast.walk(content) for name in changes(node) if name in containers}
    assert not changed


def changes(node: ast.AST) -> Iterator[str]:
    """The names whose contents `node` changes: `name[...] = `, `del name[...]`, `name.append(...)` and the like."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        yield dotted(node.value)
    elif isinstance(node, ast.AugAssign):
        yield dotted(node.target)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
        yield dotted(node.func.value)


@every_module
def test_nothing_is_unpickled(path: Path) -> None:
    content = tree(path)
    assert not {module for module in imported(content) if module.split(".")[0] in UNPICKLES}
    calls = {dotted(node.func) for node in ast.walk(content) if isinstance(node, ast.Call)}
    assert not {
        call for call in calls if call in FORBIDDEN_CALLS or call.endswith(("_object", "_object_list", ".load_module"))
    }
    assert "allow_pickle=True" not in path.read_text()


DRAWS = {
    "framework/conformance.py": "small seeded graphs of the suite",
    "framework/data/generators.py": "seeded graphs: a generator is the key there",
}
"""Files that may draw from a stream of their own, and why."""


@every_module
def test_every_draw_takes_a_key(path: Path) -> None:
    content = tree(path)
    calls = {dotted(node.func) for node in ast.walk(content) if isinstance(node, ast.Call)}
    drawn = {call for call in calls if GENERATORS.match(call)}
    if name_of(path) not in DRAWS:
        assert not drawn
    assert "random" not in set(imported(content)), "the standard library's generator is a stream"


@every_file
def test_other_libraries_of_graphs_stay_in_interop(path: Path) -> None:
    if not name_of(path).startswith(("framework/interop/", "benchmarks/")):  # and where they are measured against
        foreign = {module for module in imported(tree(path)) if module.split(".")[0] in ("torch_geometric", "dgl")}
        assert not foreign


@every_module
def test_tensors_move_through_the_group_alone(path: Path) -> None:
    """So that every byte is counted: torch.distributed is imported in `framework.comm` and nowhere else."""
    if not name_of(path).startswith("framework/comm/"):
        assert not {module for module in imported(tree(path)) if module.startswith("torch.distributed")}


PLACES = re.compile(r"(/home/|/root/|/Users/|/work/|/tmp/|C:\\\\|\bTODO\b|\bFIXME\b|\bXXX\b)")


def written() -> list[Path]:
    """Everything somebody wrote: code, kernels, pages, settings."""
    endings = {".py", ".cc", ".h", ".md", ".toml", ".txt", ".yml", ".yaml"}
    folders = [ROOT / folder for folder in (*PACKAGES, "benchmarks", "tools", "tests", "docs")]
    inside = [path for folder in folders for path in folder.rglob("*") if path.suffix in endings]
    return sorted({*inside, *(path for path in ROOT.iterdir() if path.suffix in endings)} - {Path(__file__)})


@pytest.mark.parametrize("path", written(), ids=name_of)
def test_nothing_is_tied_to_a_machine_or_left_to_do(path: Path) -> None:
    found = {match[0] for match in PLACES.finditer(path.read_text(errors="replace"))}
    assert not found


def test_floors_are_a_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert contract["type"] == "layers"
    named = {name.strip() for layer in contract["layers"] for name in re.split(r"[|:]", layer)}
    inside = {
        f"framework.{path.stem}"
        for path in (ROOT / "framework").iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert named == inside | {"launch", "partitioners"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
