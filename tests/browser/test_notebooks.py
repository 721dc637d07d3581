"""Students open the notebooks: each renders, and the first runs to its end."""

import shutil
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.xdist_group("browser")  # One worker, so that there is one server.
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))

# Brings each cell into view, for others may not be in the page, and says what is wrong there.
FAULTS = """async () => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const faults = [];
  let patience = 6000;
  const until = async (ready, what) => {
    for (; patience && !ready(); patience--) await new Promise(done => setTimeout(done, 10));
    if (!ready()) faults.push(what);
  };
  for (const [index, cell] of notebook.widgets.entries()) {
    await notebook.scrollToItem(index);
    const markdown = cell.model.type === 'markdown';
    const shown = () => cell.node.isConnected && cell.node.innerText.trim() !== '';
    await until(() => shown() && (!markdown || cell.rendered), `cell ${index} is not rendered`);
    const images = [...cell.node.querySelectorAll('img')];
    await until(() => images.every(image => image.complete), `cell ${index} waits for a picture`);
    if (images.some(image => !image.naturalWidth)) faults.push(`cell ${index} lacks a picture`);
    if (cell.node.querySelector('mjx-merror')) faults.push(`cell ${index} has a bad formula`);
  }
  if (!notebook.node.querySelector('h1')) faults.push('there is no title');
  const dialog = document.querySelector('.jp-Dialog');
  if (dialog) faults.push(dialog.innerText);
  return faults;
}"""


def copy(folder: Path) -> None:
    for name in ("notebooks", "figures"):
        shutil.copytree(ROOT / name, folder / name)


@pytest.fixture
def opened(lab):
    copy(lab.folder)
    lab.visit(f"notebooks/{NOTEBOOKS[0]}")
    return lab


def test_every_notebook_renders_without_an_error(opened):
    errors, faults = [], {}
    opened.page.on("pageerror", lambda error: errors.append(str(error)))
    for name in NOTEBOOKS:
        opened.turn_to(f"notebooks/{name}")
        faults[name] = opened.page.evaluate(FAULTS)
    assert {name: texts for name, texts in faults.items() if texts} == {}
    # JupyterLab's own, where a notebook has no kernel.
    assert [error for error in errors if "reading 'kernel'" not in error] == []


def test_what_does_not_render_is_seen(lab):
    bad = nbformat.v4.new_markdown_cell(r"![a](none.png) $\begin{none}x\end{none}$")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[bad], metadata={"kernelspec": kernel})
    nbformat.write(notebook, lab.folder / "bad.ipynb")
    lab.visit("bad.ipynb")
    faults = lab.page.evaluate(FAULTS)
    assert "cell 0 lacks a picture" in faults
    assert "cell 0 has a bad formula" in faults
    assert "there is no title" in faults


def test_the_first_notebook_runs_to_its_end(lab):
    copy(lab.folder)
    first = lab.folder / "notebooks" / NOTEBOOKS[0]
    text = first.read_text(encoding="utf-8")
    short = text.replace('profile = \\"laptop\\"', 'profile = \\"smoke\\"')
    short = short.replace('dataset = \\"auto\\"', 'dataset = \\"glyphs\\"')
    assert short != text
    first.write_text(short, encoding="utf-8")
    lab.visit(f"notebooks/{first.name}")
    lab.command("notebook:run-all-cells")
    for index in range(lab.count()):
        lab.wait_for_cell(index)
    assert any(lab.picture(index) for index in range(lab.count()))
