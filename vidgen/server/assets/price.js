// What a video will cost, from the catalog's prices per second of clip.

import { money } from "./words.js";

export function priceOf(model, wish) {
  const resolution = wish.size ? model.resolution_of?.[wish.size] : (wish.resolution ?? model.resolutions[0]);
  const prices = wish.audio === false ? model.silent_price_micros_per_second : model.price_micros_per_second;
  const perSecond = prices[resolution] ?? prices[""]; // some cost the same in every resolution
  return perSecond === undefined || !wish.seconds ? null : perSecond * wish.seconds;
}

export function priceRange(model) {
  const prices = Object.values(model.price_micros_per_second);
  if (!prices.length) return null;
  const [least, most] = [Math.min(...prices), Math.max(...prices)];
  return least === most ? money(least) : `${money(least)} to ${money(most)}`;
}
