// What panels have in common: ranges of series that may lack values.

/** Least and largest of some lists; only what is above minus `least` counts. */
export const extent = (lists, least = Infinity) => {
  let [low, high] = [Infinity, -Infinity];
  for (const list of lists)
    for (const x of list) if (Number.isFinite(x) && x > -least) [low, high] = [Math.min(low, x), Math.max(high, x)];
  return low <= high ? [low, high] : [0, 1];
};
