// What scrolls sideways can be reached by keyboard, and the two sidebars have names for screen readers.
document.addEventListener("DOMContentLoaded", () => {
  for (const one of document.querySelectorAll("pre, .table-wrapper, .cell_output")) {
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
  }
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "All pages");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
});
