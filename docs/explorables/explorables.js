// Every figure of a page is loaded when it comes near the window; until then, and without JavaScript, its picture stands there.
const here = new URL(".", import.meta.url).href;

async function begin(figure) {
  const place = document.createElement("div"), name = figure.dataset.name;
  place.className = "explorable-place";
  try {
    const { mount } = await import(`${here}${name}.js`);
    await mount(place, { data: `${here}data/`, figure });
  } catch (error) {
    figure.classList.add("is-still");
    return console.warn(`The figure ${name} stays a picture: ${error.message}`);
  }
  figure.prepend(place); // out of sight until its canvases know their size and are drawn
  await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  figure.classList.add("is-alive");
  figure.querySelectorAll(".explorable-static a").forEach(link => { link.tabIndex = -1; }); // nobody sees it
}

const near = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(({ target }) => {
  near.unobserve(target);
  begin(target);
}), { rootMargin: "200px" });
document.querySelectorAll("figure.explorable").forEach(figure => near.observe(figure));
