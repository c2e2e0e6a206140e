// Sliders that need no kernel: each stop has its picture. And what scrolls can be reached by key.
(() => {
  for (const box of document.querySelectorAll(".segleak-frames")) {
    const told = JSON.parse(box.querySelector("script").textContent);
    const inputs = [...box.querySelectorAll("input")];
    const picture = box.querySelector("img");
    const says = box.querySelector(".segleak-says");
    const answers = [...box.querySelectorAll(".segleak-questions b")];
    const show = () => {
      const frame = told.frames[inputs.map((input) => input.value).join(",")];
      const shown = told.pictures[frame.picture];
      picture.src = shown.src;
      picture.alt = shown.alt;
      says.innerHTML = frame.says;
      inputs.forEach((input, k) => {
        const word = told.stops[k][input.value];
        input.setAttribute("aria-valuetext", word);
        input.nextElementSibling.textContent = word;
        input.disabled = frame.off.includes(told.names[k]);
      });
      answers.forEach((answer, k) => {
        if (frame.answers[k]) answer.textContent = frame.answers[k];
      });
    };
    let fetched = false;
    for (const input of inputs) {
      input.addEventListener("input", show);
      input.addEventListener("focus", () => {
        if (!fetched) told.pictures.forEach((shown) => { new Image().src = shown.src; });
        fetched = true;
      });
    }
    // a browser that remembers where a slider stood before a reload
    if (inputs.some((input) => input.value !== input.defaultValue)) show();
  }

  const wide =
    "pre, math, .math, .segleak-picture, .table-wrapper, .cell_output .output, " +
    ".jp-OutputArea-output, .jp-Cell-inputWrapper, .highlight";
  const reach = () => {
    for (const box of document.querySelectorAll(wide)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", () => {
    const sizes = new ResizeObserver(reach);
    for (const box of document.querySelectorAll(wide)) sizes.observe(box);
    reach();
  });
  addEventListener("resize", reach);
  addEventListener("toggle", reach, true);
})();

// Sums that need no kernel: figures.sums does the same, number for number.
(() => {
  const percent = (x) => `${(100 * x).toFixed(x >= 0.0995 ? 0 : x >= 0.00995 ? 1 : 2)} %`;
  const short = (x, digits) => x.toFixed(digits).replace(/^0\./, ".");
  const whole = (x) => Number(x.toFixed(0)).toLocaleString("en-US");
  const small = (x) => x.toExponential(1);
  const three = ([value, low, high], text) => `${text(value)} [${text(low)}, ${text(high)}]`;
  const power = (input) => 10 ** Number(input.value);
  const right = (tpr, fpr, prior) => {
    const all = prior * tpr + (1 - prior) * fpr;
    return all ? (prior * tpr) / all : 0;
  };

  const kinds = {
    worth(told, [attack, at, prior_]) {
      const of = told.attacks[attack.value];
      const k = Number(at.value);
      const [fpr, prior] = [told.fpr[k], power(prior_)];
      const tpr = [of.value[k], of.low[k], of.high[k]];
      const [members, others] = [told.asked * prior, told.asked * (1 - prior)];
      const found = tpr.map((x) => members * x);
      const missed = [tpr[0], tpr[2], tpr[1]].map((x) => members * (1 - x));
      const worth = tpr.map((x) => right(x, fpr, prior));
      const integer = (x) => x.toFixed(0);
      return {
        says:
          `${of.name} at ${percent(fpr)} FPR: TPR ${three(tpr, (x) => short(x, 3))}. Of ` +
          `${whole(told.asked)} images ${integer(members)} are members (${percent(prior)}): ` +
          `${three(found, integer)} are found, ${three(missed, integer)} are missed. Of the ` +
          `other ${whole(others)}, ${integer(others * fpr)} are accused. Precision ` +
          `${three(worth, (x) => short(x, 2))}.`,
        words: [of.name, percent(fpr), percent(prior)],
        curve: told.fpr.map((x, j) => [x, of.value[j], of.low[j], of.high[j]]),
        mark: [fpr, ...tpr],
      };
    },
    promise(_, inputs) {
      const [epsilon, delta, fpr, prior] = inputs.map(power);
      const most = (x) =>
        Math.min(
          1,
          Math.exp(Math.min(epsilon, 700)) * x + delta,
          1 - Math.exp(-epsilon) * (1 - delta - x),
        );
      const curve = [];
      for (let j = -400; j <= 0; j += 4) {
        const x = 10 ** (j / 100);
        curve.push([x, most(x), 0, most(x)]);
      }
      return {
        says:
          `(ε, δ) = (${epsilon.toFixed(2)}, ${small(delta)}): at ${percent(fpr)} FPR no attack ` +
          `finds more than ${percent(most(fpr))} of the members on average, whatever it knows; who ` +
          `guesses finds ${percent(fpr)}. Where ${percent(prior)} are members, at most ` +
          `${percent(right(most(fpr), fpr, prior))} of its accusations are right.`,
        words: [epsilon.toFixed(2), small(delta), percent(fpr), percent(prior)],
        curve,
        mark: [fpr, most(fpr), most(fpr), most(fpr)],
      };
    },
  };

  for (const box of document.querySelectorAll(".segleak-sums")) {
    const told = JSON.parse(box.querySelector("script").textContent);
    const inputs = [...box.querySelectorAll("input, select")];
    const drawing = box.querySelector("svg");
    const part = (name) => drawing.querySelector(`.segleak-${name}`);
    // the drawing: FPR from 10^-4 to 1 on a logarithmic axis, TPR from 0 to 1
    const x = (fpr) => 40 + 70 * (4 + Math.log10(Math.max(fpr, 1e-4)));
    const y = (tpr) => 210 - 200 * tpr;
    const path = (points) => points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    const show = () => {
      const { says, words, curve, mark } = kinds[told.kind](told, inputs);
      box.querySelector(".segleak-says").textContent = says;
      inputs.forEach((input, k) => {
        if (input.type !== "range") return;
        input.setAttribute("aria-valuetext", words[k]);
        input.nextElementSibling.textContent = words[k];
      });
      const ends = [...curve.map((p) => [p[0], p[3]]), ...curve.map((p) => [p[0], p[2]]).reverse()];
      part("band").setAttribute("points", path(ends));
      part("curve").setAttribute("points", path(curve));
      part("bar").setAttribute("points", path([[mark[0], mark[2]], [mark[0], mark[3]]]));
      part("mark").setAttribute("cx", x(mark[0]));
      part("mark").setAttribute("cy", y(mark[1]));
      drawing.setAttribute("aria-label", `TPR against FPR. ${says}`);
    };
    for (const input of inputs) input.addEventListener("input", show);
    show();
  }
})();
