"""Packaging: the distribution `shardyard` and its one compiled part, the kernels.

Assumptions: the kernels are plain C++17 behind a C interface, so that one compiler call makes one shared object, which
fits every Python. A compiler that is missing or fails does not stop an installation: the torch twins do the work then.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("framework/kernels/source")
FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
VERSION = Path("framework/__init__.py").read_text().split('__version__ = "')[1].split('"')[0]

TEST = ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6.100", "networkx>=3.2", "scikit-learn>=1.4"]


class BuildKernels(build_ext):
    """Compile all of the kernels' sources into `framework/kernels/_native.so`."""

    def get_ext_filename(self, fullname: str) -> str:
        """The file of the extension, without the suffix of one Python: it holds nothing of Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Compile `ext`, with OpenMP where there is any; say so in one line where that fails."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        failure = "no C++ compiler was found (looked for $CXX, g++, clang++)"
        for compiler in filter(None, map(shutil.which, [os.environ.get("CXX", ""), "g++", "clang++"])):
            for openmp in (["-fopenmp"], []):
                made = target.with_suffix(".new")  # moved into place, so that nobody loads half of it
                command = [compiler, *FLAGS, *openmp, *ext.sources, "-o", str(made)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode == 0:
                    made.replace(target)
                    return
                failure = f"{' '.join(command)} failed: {result.stderr.strip()[-500:]}"
        print(f"shardyard: the C++ kernels were not built, their torch twins will be used: {failure}", file=sys.stderr)


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python: the compiled part is bound to the one, not to the other."""

    def get_tag(self) -> tuple[str, str, str]:
        """`py3-none-<platform>`."""
        return "py3", "none", super().get_tag()[2]


setup(
    name="shardyard",
    version=VERSION,
    description="Partition large graphs and data sets, train on the parts, resume exactly.",
    long_description=Path("README.md").read_text() if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    package_dir={"": "."},
    packages=find_packages(
        include=["framework", "framework.*", "launch", "launch.*", "partitioners", "partitioners.*"]
    ),
    package_data={"": ["py.typed", "*.parquet", "*/*.parquet"], "framework.kernels": ["source/*"]},
    ext_modules=[
        Extension(
            "framework.kernels._native",
            sources=sorted(map(str, SOURCES.glob("*.cc"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
    entry_points={"console_scripts": ["shardyard = launch.cli:main"]},
    install_requires=[
        "torch>=2.6",
        "ray[default,train,data]>=2.46",
        "pyarrow>=17",
        "numpy>=1.26",
        "scipy>=1.12",
        "threadpoolctl>=3.2",
        "tyro>=1.0",
        "rich>=13",
        "safetensors>=0.4.3",
        "pymetis>=2023.1",
        "pillow>=10",
        "sentencepiece>=0.2",
        "sacrebleu>=2.4",
        "tensorboard>=2.16",
        "matplotlib>=3.8",
    ],
    extras_require={
        "pyg": ["torch_geometric>=2.6"],
        "dgl": ["dgl==1.1.3", "packaging", "psutil", "requests", "tqdm", "networkx"],
        "deepspeed": ["deepspeed>=0.16"],
        "chem": ["rdkit>=2024.3"],
        "datamol": ["datamol>=0.12"],
        "superpixels": ["scikit-image>=0.22", "mlxtend>=0.23"],
        "align": ["systran-align>=3.0"],
        "test": TEST,
        "dev": [*TEST, "ruff>=0.9", "mypy>=1.14", "import-linter>=2.1", "build>=1.2"],
    },
)
