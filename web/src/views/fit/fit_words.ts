/** Errors and warnings of a fit in the words of the page: its controls and pictures in place of arguments. */

const WORDS: readonly (readonly [RegExp, string])[] = [
  [/^gd has/, "gradient descent has"],
  [/^adam has/, "Adam has"],
  [/^lbfgs has/, "L-BFGS has"],
  [/^momentum has/, "the descent with momentum has"],
  [/pass a larger steps=, or another learning_rate=, or method="lbfgs"(?:, or method="lstsq", the closed form)?/, "take more steps, another learning rate, L-BFGS, or the closed form alone"],
  [/pass errors=["']jackknife["']/, "take the closed form alone, with errors for any noise"],
  [/pass nan=['"]omit['"] or (?:x_)?mask=, which leave\b/, "choose “left out” for NaN pixels, which leaves"],
  [/^mask, weights, x_mask, nan or saturation leave/, "NaN pixels leave"],
  [/\bthe first at \(\d+, \d+, (\d+), (\d+)\)/, "the first at row $1, column $2"],
  [/; register them, or pass origin=\([^)]*\)/, "; align the pictures first"],
  [/; with this padding kernel_size=\([^)]*\) would fit/, "; cut the pictures to one size"],
  [/\bk spans (\d+) elements on spatial axis (\d) \([^)]*\) but the padded input has (\d+);.*/, "the kernel spans $1 pixels on axis $2, but the picture has $3; take a smaller kernel"],
  [/\bpass offset=True\b/, "fit a constant offset too"],
  [/\bstderr\b/g, "the standard error"],
  [/\b(pass|use|try) a (larger|smaller) kernel_size\b/g, "take a $2 kernel"],
  [/\bkernel_size is \((\d+), (\d+)\)/g, "the kernel size is $1 × $2"],
  [/\bkernel_size \((\d+), (\d+)\)/g, "the size $1 × $2"],
  [/\bkernel_size\b=?/g, "the kernel size"],
  [/\blearning_rate=/g, "a learning rate of "],
  [/\blearning_rate\b/g, "the learning rate"],
  [/\bridge=/g, "a ridge"],
  [/(?<![-\w/.×])x(?![-\w/.(\[=])/g, "the first picture"],
  [/(?<![-\w/.])y(?![-\w/.(\[=])/g, "the second picture"],
];

/** Return a sentence of the library with the names of the page's controls and pictures. */
export function inWordsOfThePage(text: string): string {
  const said = WORDS.reduce((sentence, [from, to]) => sentence.replace(from, to), text.trim());
  if (!said) return "";
  return said.charAt(0).toUpperCase() + said.slice(1) + (/[.?!]$/.test(said) ? "" : ".");
}
