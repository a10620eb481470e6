"""Executes the notebooks of this folder: `python -m examples.execute [NOTEBOOK ...]`, from the root of the repository; all, if none is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path) -> NotebookNode:
    """The notebook, run by this interpreter on this checkout in a folder of its own, without what says when and where it ran.

    Raises:
        CellExecutionError: a cell failed; the message has the cell and the traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        kernels = KernelSpecManager(kernel_dirs=[])  # the interpreter's own, whatever "python3" is to this user's Jupyter
        kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=kernels)
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=300,
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],  # it would warn that it is reached by TCP, which never leaves this machine
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute(env=environment(folder))
        finally:
            if kernel.has_kernel:
                run_sync(kernel.shutdown_kernel)(now=True)  # the client leaves one that it did not make itself
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem.replace('_', '-')}-{index}"
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data = NotebookNode({"image/png": output.data["image/png"].strip()})
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"}, language_info={"name": "python"}
    )
    nbformat.validate(notebook)
    return notebook


def environment(folder: str) -> dict[str, str]:
    """The kernel's: this checkout before what is installed, no user's IPython settings, pictures in the page, no progress bars."""
    paths = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "IPYTHONDIR": folder,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MATPLOTLIBRC": os.devnull,
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, which asks for ipywidgets
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(path.name)
