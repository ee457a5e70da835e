// Films with their controls below them, so that these never cover an axis. Those that start by themselves wait until they
// are seen, and stand still for readers who asked for less motion.
(() => {
  "use strict";
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  function equip(film) {
    const bar = document.createElement("div");
    const button = document.createElement("button");
    const slider = document.createElement("input");
    bar.className = "film-bar";
    button.type = "button";
    Object.assign(slider, { type: "range", min: 0, max: 1000, value: 0 });
    slider.setAttribute("aria-label", "position in the film");
    bar.append(button, slider);
    bar.style.maxWidth = `${film.getAttribute("width")}px`;
    film.after(bar);
    film.controls = false;
    film.style.aspectRatio = `${film.getAttribute("width")} / ${film.getAttribute("height")}`;

    let asked = null; // what the reader last did: true, play; false, pause
    let dragged = null; // a position that was asked for before the film was there
    const show = () => {
      button.className = film.paused ? "play" : "pause";
      button.setAttribute("aria-label", film.paused ? "play" : "pause");
    };
    const play = () => film.play().catch(() => {}); // a page that is being left
    const toggle = () => {
      asked = film.paused;
      if (asked) play();
      else film.pause();
    };
    const follow = () => {
      if (film.duration) slider.value = (1000 * film.currentTime) / film.duration;
      if (!film.paused) requestAnimationFrame(follow);
    };
    button.addEventListener("click", toggle);
    film.addEventListener("click", toggle);
    film.addEventListener("play", () => {
      show();
      follow();
    });
    for (const event of ["pause", "ended", "seeked"]) film.addEventListener(event, () => (show(), follow()));
    film.addEventListener("loadedmetadata", () => {
      if (dragged !== null) film.currentTime = (dragged / 1000) * film.duration;
      dragged = null;
    });
    slider.addEventListener("input", () => {
      asked = false;
      film.pause();
      if (film.duration) {
        film.currentTime = (slider.value / 1000) * film.duration;
      } else {
        dragged = slider.value;
        film.preload = "auto";
        film.load();
      }
    });
    show();

    if (film.dataset.starts === undefined) return;
    let seen = false;
    const decide = () => {
      if (seen && (asked ?? !still.matches)) play();
      else film.pause();
    };
    new IntersectionObserver(([entry]) => {
      seen = entry.isIntersecting;
      decide();
    }).observe(film);
    still.addEventListener("change", decide);
  }

  for (const film of document.querySelectorAll("video.film")) equip(film);
})();
