"""A product as a walk makes it: in a folder of its own, with a work folder beside it, sealed."""

from pathlib import Path
from typing import Any

from framework.engine.pipeline import Product
from framework.engine.run import Mapper
from framework.made import Made
from framework.store.product import ProductFolder


def made(step: Product, folder: Path, mapper: Mapper = map) -> Made:
    """What a step makes; what it left in its work folder before is there again."""
    work = folder.with_name(f"{folder.name}-work")
    folder.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    facts = step.make(folder, work, mapper, ignored)
    ProductFolder.seal(folder, digest=folder.name, facts=facts)
    return Made(step=folder.name, digest=folder.name, path=str(folder))


def ignored(event: dict[str, Any]) -> None:
    """Nobody watches."""
