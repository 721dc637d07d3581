// Explorers whose states were drawn beforehand (tools/frozen_explorers.py): the controls choose
// which picture is shown, counted like the digits of a number, the last control fastest.
for (const explorer of document.querySelectorAll(".explorer")) {
  const controls = [...explorer.querySelectorAll("[data-count]")];
  const captions = JSON.parse(explorer.querySelector("script").textContent);
  const picture = explorer.querySelector("img");
  const status = explorer.querySelector(".explorer-words");

  const position = (control) =>
    control.type === "checkbox" ? Number(control.checked)
    : control.type === "range" ? Number(control.value)
    : control.selectedIndex;

  const show = () => {
    let state = 0;
    for (const control of controls) {
      state = state * Number(control.dataset.count) + position(control);
      if (control.dataset.words) {
        const word = JSON.parse(control.dataset.words)[position(control)];
        control.setAttribute("aria-valuetext", word);
        control.parentElement.querySelector(".explorer-value").textContent = word;
      }
    }
    picture.src = `${explorer.dataset.url}/${state}.webp`;
    picture.alt = status.textContent = captions[state];
  };
  for (const control of controls) control.addEventListener("input", show);
}

// The theme's arrows beside a page with pages below it have no name.
for (const summary of document.querySelectorAll("nav summary")) {
  const page = summary.parentElement.parentElement.querySelector("a").textContent;
  summary.setAttribute("aria-label", `Pages below “${page}”`);
}

// What scrolls sideways can be reached by the keyboard.
for (const wide of document.querySelectorAll(".math-block, .bd-article table")) {
  if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
}
