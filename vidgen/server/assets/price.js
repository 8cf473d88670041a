// What a video will cost, from the catalog's prices per second of clip.

import { money } from "./words.js";

export function priceOf(model, wish) {
  const resolution = wish.size ? model.resolution_of?.[wish.size] : (wish.resolution ?? model.resolutions[0]);
  const perSecond = model.price_micros_per_second[resolution];
  return perSecond === undefined ? null : perSecond * wish.seconds;
}

export function priceRange(model) {
  const prices = Object.values(model.price_micros_per_second);
  const [least, most] = [Math.min(...prices), Math.max(...prices)];
  return least === most ? money(least) : `${money(least)} to ${money(most)}`;
}
