// Lets widgets find their parts in the book instead of on a server.
requirejs.config({ baseUrl: new URL("vendor", document.currentScript.src).href });

// Widgets ask for formulas in the words of MathJax 2; the book has MathJax 3.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.MathJax) return;
  MathJax.Hub = {
    Queue: ([, , element]) => MathJax.startup.promise.then(() => MathJax.typesetPromise([element])),
  };
});
