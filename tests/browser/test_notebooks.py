"""Every notebook renders in JupyterLab, and the first one runs to the end."""

import shutil
from pathlib import Path

import nbformat
import pytest

from tests.browser.conftest import Lab

pytestmark = pytest.mark.xdist_group("browser")  # one worker, so that all tests share one server
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))

# Scrolls to each cell, because the page omits cells out of view, and returns what is wrong there.
FAULTS = """async () => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const faults = [];
  let attempts = 6000;
  const until = async (ready, fault) => {
    for (; attempts && !ready(); attempts--) await new Promise(done => setTimeout(done, 10));
    if (!ready()) faults.push(fault);
  };
  for (const [index, cell] of notebook.widgets.entries()) {
    await notebook.scrollToItem(index);
    const markdown = cell.model.type === 'markdown';
    const shown = () => cell.node.isConnected && cell.node.innerText.trim() !== '';
    await until(() => shown() && (!markdown || cell.rendered), `cell ${index} is not rendered`);
    const images = [...cell.node.querySelectorAll('img')];
    await until(() => images.every(image => image.complete), `cell ${index} is loading an image`);
    if (images.some(image => !image.naturalWidth)) faults.push(`cell ${index} has a missing image`);
    if (cell.node.querySelector('mjx-merror')) faults.push(`cell ${index} has an invalid formula`);
  }
  if (!notebook.node.querySelector('h1')) faults.push('the notebook has no title');
  const dialog = document.querySelector('.jp-Dialog');
  if (dialog) faults.push(dialog.innerText);
  return faults;
}"""


@pytest.fixture(scope="module")
def lab(server, browser):
    """The first notebook, at its smallest, in a page that the other notebooks share."""
    lab = Lab(server, browser)
    for name in ("notebooks", "figures"):
        shutil.copytree(ROOT / name, lab.folder / name)
    first = lab.folder / "notebooks" / NOTEBOOKS[0]
    text = first.read_text(encoding="utf-8")
    short = text.replace('profile = \\"laptop\\"', 'profile = \\"smoke\\"')
    short = short.replace('dataset = \\"auto\\"', 'dataset = \\"glyphs\\"')
    assert short != text
    first.write_text(short, encoding="utf-8")
    lab.visit(f"notebooks/{first.name}")
    yield lab
    lab.close()


def test_the_first_notebook_runs_to_the_end(lab):
    lab.command("notebook:run-all-cells")
    for index in range(lab.count()):
        lab.wait_for_cell(index)
    assert any(lab.picture(index) for index in range(lab.count()))


@pytest.mark.slow
def test_every_notebook_renders_without_an_error(lab):
    errors, faults = [], {}
    lab.page.on("pageerror", lambda error: errors.append(str(error)))
    for name in NOTEBOOKS:
        lab.open_without_kernel(f"notebooks/{name}")
        faults[name] = lab.page.evaluate(FAULTS)
    assert {name: texts for name, texts in faults.items() if texts} == {}
    # JupyterLab itself raises this error for a notebook without a kernel.
    assert [error for error in errors if "reading 'kernel'" not in error] == []


def test_rendering_faults_are_detected(lab):
    bad = nbformat.v4.new_markdown_cell(r"![a](none.png) $\begin{none}x\end{none}$")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[bad], metadata={"kernelspec": kernel})
    nbformat.write(notebook, lab.folder / "bad.ipynb")
    lab.open_without_kernel("bad.ipynb")
    faults = lab.page.evaluate(FAULTS)
    assert "cell 0 has a missing image" in faults
    assert "cell 0 has an invalid formula" in faults
    assert "the notebook has no title" in faults
