// Runs before the first paint so that a dark room stays dark.
(function () {
  var choice = null;
  try {
    choice = localStorage.getItem("breeze.theme");
  } catch {
    // Storage may be refused; the system's preference then decides.
  }
  var dark =
    choice === "dark" || (choice !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
