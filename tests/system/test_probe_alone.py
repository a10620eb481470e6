"""`probe` without what only `fseg` needs: in a fresh interpreter where none of that can be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = ("fseg", "recipes", "segment_anything", "scipy", "skimage", "matplotlib", "mpl_toolkits", "typer", "xarray", "ray", "anywidget")
OWN = {
    *("torch", "torchvision", "transformers", "nnsight", "accelerate", "numpy", "einops", "jaxtyping", "safetensors", "PIL", "lazy_loader"),
    "tqdm",
}
WHERE_USED = {"matplotlib", "typer", "xarray", "ray", "anywidget", "traitlets"}
"""Imported inside the functions that draw, export, distribute or are commands."""
PROGRAM = """
import sys

sys.modules.update(dict.fromkeys({others!r}))  # None: an import raises ModuleNotFoundError

import numpy as np
import probe
from probe.views import overlay, widget
from tests import zoo

hf, processor = zoo.llava()
model = probe.load(model=hf, processor=processor)
picture = probe.open_image(np.zeros((64, 96, 3), dtype=np.uint8))
answer = model.generate(model.encode(picture, "What is this?"), max_new_tokens=2, min_new_tokens=2)
trace = model.run(answer, [probe.Hidden([2], at="image"), probe.Attention("all", query=-1)])
heat = trace.hidden("image", layer=2).mean("feature").grid()
print(heat.to_pixels().shape["width"], trace.attention(layer=0).shape["query"])
for wanted in (lambda: overlay(picture, heat), heat.to_xarray, lambda: widget(trace, picture)):
    try:
        wanted()
    except probe.errors.PackageNeeded as error:
        print(error)
assert not set({others!r}) & {{name for name, module in sys.modules.items() if module is not None}}
"""


def test_probe_works_with_its_own_dependencies_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(others=OTHERS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers, colours, arrays, notebook = done.stdout.strip().splitlines()
    assert numbers == "96 1"
    assert "pip install matplotlib" in colours
    assert "pip install 'fseg-llava[xarray]'" in arrays
    assert "pip install 'fseg-llava[widget]'" in notebook


def test_probe_imports_nothing_else() -> None:
    found = set()
    for path in (ROOT / "probe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").split(".")[0])
    assert found - sys.stdlib_module_names - {"probe"} <= OWN | WHERE_USED
