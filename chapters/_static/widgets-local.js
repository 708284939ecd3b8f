// Widget code that is not part of the standard set is found in the book, not on a server.
requirejs.config({
  paths: { anywidget: new URL("vendor/anywidget", document.currentScript.src).href },
});
