"""Builds the folder that the data set `debian` reads from any package index of apt.

    apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages'     # says where the indexes are
    python tools/build_debian.py Packages.gz out/ --translation Translation-en.bz2

Assumptions: an index is a sequence of stanzas of `Field: value` lines, as deb-control(5) and the Debian repository
format describe them. A node is a package name, in the order of the index; of several versions the first counts. An
undirected edge joins a package to each one it names in a relation (every alternative; a virtual name stands for its
first PROVIDERS providers). A term is a word of the description, the long one where its index is given too. Compression
is told by the file's ending: .gz, .xz, .bz2, .lz4 or none.
"""

import argparse
import bz2
import collections
import contextlib
import gzip
import lzma
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from framework.data.debian import write_folder
from framework.errors import InputError

RELATIONS = ("Depends", "Pre-Depends", "Recommends", "Suggests", "Enhances")
PROVIDERS = 8
"""Providers that a virtual name stands for; a few names have thousands."""
_WORD = re.compile(r"[a-z][a-z0-9+#-]+")
_PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}

Stanza = dict[str, str]


def read_index(path: Path) -> Iterator[Stanza]:
    """The stanzas of an index: field -> value, continuation lines joined by spaces. Raises InputError for no file."""
    stanza: Stanza = {}
    field = ""
    with _lines(path) as lines:
        for line in lines:
            if not line.strip():
                if stanza:
                    yield stanza
                stanza = {}
            elif line[0] in " \t":
                stanza[field] += " " + line.strip()
            else:
                field, _, value = line.partition(":")
                stanza[field] = value.strip()
    if stanza:
        yield stanza


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Iterable[str]]:
    if not path.is_file():
        raise InputError(f"'{path}' is missing. Name a package index of apt.")
    if path.suffix == ".lz4":
        with subprocess.Popen(["lz4cat", str(path)], stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
            assert process.stdout is not None
            yield process.stdout
        return
    opener: Callable[..., TextIO] = _OPENERS.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as file:
        yield file


def packages_of(stanzas: Iterable[Stanza]) -> dict[str, Stanza]:
    """Package name -> its first stanza, in the order of the index."""
    found: dict[str, Stanza] = {}
    for stanza in stanzas:
        if "Package" in stanza:
            found.setdefault(stanza["Package"], stanza)
    return found


def edges_of(packages: dict[str, Stanza]) -> NDArray[np.int64]:
    """Each undirected edge once, the smaller number first: [E, 2]."""
    numbers = {name: number for number, name in enumerate(packages)}
    providers = collections.defaultdict(list)
    for name, stanza in packages.items():
        for virtual in _names(stanza.get("Provides", "")):
            providers[virtual].append(numbers[name])
    edges: set[tuple[int, int]] = set()
    for name, stanza in packages.items():
        here = numbers[name]
        for other in _names(", ".join(stanza.get(relation, "") for relation in RELATIONS)):
            there = [numbers[other]] if other in numbers else providers[other][:PROVIDERS]
            edges.update((min(here, number), max(here, number)) for number in there if number != here)
    return np.asarray(sorted(edges), np.int64).reshape(-1, 2)


def _names(relations: str) -> Iterator[str]:
    """The package names in `a (>= 1), b | c [amd64]`."""
    for alternative in re.split(r"[,|]", relations):
        if match := _PACKAGE_NAME.match(alternative.strip()):
            yield match.group()


def terms_of(descriptions: Iterable[str], limit: int) -> tuple[csr_matrix, list[str]]:
    """How often each description has each term, [descriptions, terms], and the terms: the `limit` words that the most
    descriptions have, in the order of words."""
    counts = [collections.Counter(_WORD.findall(description.lower())) for description in descriptions]
    spread = collections.Counter(word for count in counts for word in count)
    terms = sorted(sorted(spread, key=lambda word: (-spread[word], word))[:limit])
    numbers = {term: number for number, term in enumerate(terms)}
    entries = [
        (row, numbers[word], times)
        for row, count in enumerate(counts)
        for word, times in count.items()
        if word in numbers
    ]
    rows, columns, values = np.asarray(entries, np.int64).reshape(-1, 3).T
    return csr_matrix((values, (rows, columns)), shape=(len(counts), len(terms))), terms


def build(index: Path, folder: Path, *, translation: Path | None = None, terms: int = 2000) -> None:
    """Writes the folder of the index. Raises InputError for an index without packages or without words."""
    packages = packages_of(read_index(index))
    long = packages_of(read_index(translation)) if translation else {}
    descriptions = [
        long.get(name, {}).get("Description-en", stanza.get("Description", "")) for name, stanza in packages.items()
    ]
    counts, words = terms_of(descriptions, terms)
    if not packages or not words:
        raise InputError(f"'{index}' has {len(packages)} packages and {len(words)} words; expected a package index.")
    sections = [stanza["Section"].rpartition("/")[2] if "Section" in stanza else None for stanza in packages.values()]
    write_folder(folder, edges=edges_of(packages), sections=sections, counts=counts, names=list(packages))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Builds the folder that the data set `debian` reads.")
    parser.add_argument("index", type=Path, help="a Packages file, compressed or not")
    parser.add_argument("folder", type=Path, help="where nodes.parquet and edges.parquet go")
    parser.add_argument("--translation", type=Path, help="a Translation-en file: the long descriptions")
    parser.add_argument("--terms", type=int, default=2000, help="words that become columns (default: %(default)s)")
    arguments = parser.parse_args()
    build(arguments.index, arguments.folder, translation=arguments.translation, terms=arguments.terms)


if __name__ == "__main__":
    main()
