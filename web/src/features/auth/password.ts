// How good a password is, in words. The server has the last word; this only helps to choose.

export const PASSWORD_MIN = 12;

export interface Verdict {
  /** 0 too short .. 3 strong */
  level: 0 | 1 | 2 | 3;
  words: string;
}

const COMMON = [
  "password",
  "passwort",
  "qwerty",
  "asdf",
  "letmein",
  "welcome",
  "admin",
  "breeze",
  "12345",
  "iloveyou",
];

/**
 * Bits that an attacker must guess, roughly. Letters of words are worth little, letters among
 * other signs more; repeats and runs (`aaaa`, `1234`) next to nothing.
 */
function guessBits(password: string): number {
  const kinds = [/[a-z]/, /[A-Z]/, /\d/, /[^a-zA-Z\d\s]/].filter((kind) => kind.test(password));
  const letterBits = kinds.length >= 3 ? 4.7 : 2.4;
  let bits = 0;
  let previous = -2;
  for (const ch of password) {
    const code = ch.codePointAt(0) ?? 0;
    const weight = Math.abs(code - previous) <= 1 ? 0.25 : 1;
    bits += weight * (/\p{L}/u.test(ch) ? letterBits : /\d/.test(ch) ? 3.3 : 4);
    previous = code;
  }
  return bits;
}

/** `mine` are words an attacker knows: the person's name and e-mail. */
export function judgePassword(password: string, mine: readonly string[] = []): Verdict {
  if (password === "")
    return {
      level: 0,
      words: `At least ${PASSWORD_MIN} characters. A few unrelated words work well.`,
    };
  if (password.length < PASSWORD_MIN) {
    return { level: 0, words: `Too short: ${PASSWORD_MIN - password.length} more to go.` };
  }
  const lower = password.toLowerCase();
  let rest = lower;
  for (const word of COMMON) rest = rest.replaceAll(word, "a");
  const personal = mine
    .flatMap((text) => text.toLowerCase().split(/[^\p{L}\d]+/u))
    .filter((word) => word.length >= 3);
  const known = personal.find((word) => lower.includes(word));
  for (const word of personal) rest = rest.replaceAll(word, "a");
  const bits = guessBits(rest === lower ? password : rest);
  if (rest.length <= 8 || bits < 28) {
    return {
      level: 1,
      words:
        known === undefined
          ? "Easy to guess. Add a word that has nothing to do with the rest."
          : `Easy to guess: it holds “${known}”.`,
    };
  }
  if (bits < 50) return { level: 2, words: "Good. One more word would make it strong." };
  return { level: 3, words: "Strong." };
}
