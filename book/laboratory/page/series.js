// What panels have in common: series that may lack values, their ranges, and as much of them as can be seen.

const SEEN = 500; // points of a curve, at most about

/** Some of many rows: every third, fifth, ... (an odd number, since oscillations have period two), and the last. */
export function thin(rows) {
  const every = Math.floor(rows.length / SEEN) | 1;
  return every === 1 ? rows : rows.filter((_, i) => i % every === 0 || i === rows.length - 1);
}

/** Least and largest of some lists; only what is above minus `least` counts. */
export function extent(lists, least = Infinity) {
  let low = Infinity,
    high = -Infinity;
  for (const list of lists) {
    for (const x of list) {
      if (!Number.isFinite(x) || x <= -least) continue;
      if (x < low) low = x;
      if (x > high) high = x;
    }
  }
  return low <= high ? [low, high] : [0, 1];
}
