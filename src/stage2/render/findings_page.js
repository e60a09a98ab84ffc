"use strict";
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const count = document.getElementById("shown");
  const findings = [...document.querySelectorAll("article[data-severity]")];
  const words = new Map(findings.map((finding) => [finding, finding.textContent.toLowerCase()]));

  const show = () => {
    const levels = new Set([...form.querySelectorAll("[name=severity]:checked")].map((box) => box.value));
    const file = form.elements.file.value;
    const code = form.elements.code.value;
    const sought = form.elements.text.value.toLowerCase();
    let shown = 0;
    for (const finding of findings) {
      const { severity, files, code: its } = finding.dataset;
      const wanted = levels.has(severity) && (!code || code === its) && (!file || files.split(" ").includes(file))
        && words.get(finding).includes(sought);
      finding.hidden = !wanted;
      shown += wanted;
    }
    count.textContent = `${shown} of ${findings.length} findings shown`;
  };

  // Whoever follows a link to a finding wants to see it, whatever the filter says.
  const reveal = () => {
    const meant = document.getElementById(location.hash.slice(1));
    if (meant && meant.hidden) {
      form.reset();
      show();
      meant.scrollIntoView();
    }
  };

  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", reveal);
  show(); // browsers keep what was chosen before the page was loaded again
})();
