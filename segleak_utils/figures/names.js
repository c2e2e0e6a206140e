// Gives each slider's handle the name and the value that its box shows in letters.
window.segleakNames ??= (() => {
  const set = (element, name, value) => {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  };
  const tell = () => {
    for (const box of document.querySelectorAll(".segleak-control")) {
      const handle = box.querySelector(".noUi-handle");
      if (!handle) continue;
      set(handle, "aria-label", box.querySelector(".widget-label")?.innerText || "slider");
      set(handle, "aria-valuetext", box.querySelector(".widget-readout")?.innerText || "");
    }
    for (const picture of document.querySelectorAll("img.segleak-picture"))
      set(picture, "aria-busy", String(picture.classList.contains("segleak-busy")));
  };
  const seen = new MutationObserver(tell);
  seen.observe(document.body, {
    subtree: true, childList: true, characterData: true,
    attributes: true, attributeFilter: ["class", "aria-valuetext"],
  });
  tell();
  return seen;
})();
