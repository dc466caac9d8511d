"""More text made from a seed: identifiers, traces, escapes, encodings, columns, scripts that are rare
or mixed. Shapes are many and cut at random, so that no single one is learnt."""

# ruff: noqa: E501, RUF001

from __future__ import annotations

import base64
import difflib
import string
from collections.abc import Callable

from made import EMOJI, MARKS, Maker

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
DIACRITICS = "āáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜ"
PHONETIC = "əɪʊæɑɔɛʃʒθðŋɹˈˌːɐɒɜɡɾʔɲʎχβɣ"
# First and last character of blocks in which hardly a document is written, or letters of other faces.
BLOCKS = (
    "Ａｚ 𝐀𝐳 𝑨𝒛 𝗔𝘇 𝚊𝚣 𝓪𝔃 ⓐⓩ 🅰🆉 ⠁⣿ ℀⅏ ⅐ↈ ①⓿ ⌀⏿ ☀⛿ ✀➿ ⟰⫿ ᐁᙿ Ꭰᏼ ⴰⵧ ꀀꒌ ꔀꘌ ܐܯ ꨀꨨ ᠠᡂ ⲁⲹ ߊߪ ᚠᛪ ꦀꧏ ᬅᬳ"
).split()
BY = ("", "-", "_", ".", "/", "::", "->", " ", "\\")


class More(Maker):
    """A maker of what the first one does not know."""

    def cased(self) -> str:
        word = self.word()
        faces = (word, word, word.title(), word.upper(), word[: self.rng.randint(1, 4)])
        return self.rng.choice(faces)

    def identifiers(self) -> str:
        rng = self.rng
        face = rng.choice((str.lower, str.upper, str.title, str))
        by = rng.choice(BY)
        marks = rng.choice(("", "()", ";", ",", " = ", ": ", "=", "{}", '"', "`", "1", "[0]"))
        most = rng.randint(2, 6)

        def one() -> str:
            words = [face(self.word()) for _ in range(rng.randint(1, most))]
            if by == "" and rng.random() < 0.5:
                words[0] = words[0].lower()
            return by.join(words) + marks

        return self.joined(one, 20, 200, rng.choice(("\n", " ", ", ", "\n\t", "\n    ")))

    def misspelt(self) -> str:
        """Words as nobody's dictionary has them: shouted, stretched, ciphered, of digits."""
        rng = self.rng
        style = rng.randrange(6)
        code = str.maketrans(
            string.ascii_lowercase, "".join(rng.sample(string.ascii_lowercase, 26))
        )
        digits = str.maketrans(
            "aeiost", "".join(rng.choice((a, b)) for a, b in zip("aeiost", "431057", strict=True))
        )

        def one() -> str:
            word = self.word()
            if style == 0:
                return "".join(rng.choice((c, c.upper())) for c in word)
            if style == 1:
                return "".join(c * (rng.randint(2, 9) if rng.random() < 0.3 else 1) for c in word)
            if style == 2:
                return word.translate(code)
            if style == 3:
                return word.translate(digits)
            if style == 4:
                return "".join(rng.sample(word, len(word)))
            return (word[: rng.randint(1, 4)] or "a") * rng.randint(2, 14)

        return self.joined(one, 60, 400, " ")

    def traces(self) -> str:
        rng = self.rng
        word, number = self.word, rng.randint

        def path() -> str:
            return "/".join(word() for _ in range(number(1, 6)))

        def python() -> str:
            return f'  File "/{path()}.py", line {number(1, 2000)}, in {word()}\n    {word()}({word()}.{word()})'

        def java() -> str:
            name = ".".join(word() for _ in range(number(2, 5)))
            return f"\tat {name}.{word().title()}{word().title()}.{word()}({word().title()}.java:{number(1, 999)})"

        def node() -> str:
            return (
                f"    at {word()}.{word()} (file:///{path()}.js:{number(1, 900)}:{number(1, 90)})"
            )

        def native() -> str:
            return f"#{number(0, 40)} 0x{rng.getrandbits(48):012x} in {word()}_{word()} ({word()}={hex(rng.getrandbits(32))}) at {path()}.c:{number(1, 4000)}"

        def rust() -> str:
            return f"{number(0, 60):>4}: {word()}::{word()}::{word()}::h{rng.getrandbits(64):016x}\n             at /{path()}.rs:{number(1, 900)}:{number(1, 60)}"

        def go() -> str:
            return f"{word()}/{word()}.(*{word().title()}).{word().title()}(0xc{rng.getrandbits(36):09x}, {hex(rng.getrandbits(12))})\n\t/{path()}.go:{number(1, 900)} +{hex(rng.getrandbits(12))}"

        return self.joined(rng.choice((python, java, node, native, rust, go)), 6, 40)

    def escapes(self) -> str:
        rng = self.rng
        ranges = rng.choice(
            ((0, 255), (0xC0, 0x17F), (0x400, 0x4FF), (0x4E00, 0x9FFF), (0x600, 0x6FF))
        )

        def number() -> int:
            return rng.randint(*ranges)

        one = rng.choice(
            (
                lambda: f"\\x{number() % 256:02x}",
                lambda: f"\\u{number():04x}",
                lambda: f"\\u{number():04X}",
                lambda: "".join(f"%{byte:02X}" for byte in chr(number()).encode()),
                lambda: f"&#{number()};",
                lambda: f"&#x{number():x};",
                lambda: f"\\{number() % 256:03o}",
                lambda: f"\x1b[{rng.randint(0, 1)};{rng.randint(30, 47)}m{self.word()}\x1b[0m ",
                lambda: f"0x{number():04X}, ",
            )
        )
        often = rng.choice((0.0, 0.0, 0.2, 0.6))
        return self.joined(
            lambda: rng.choice((self.word(), " ", "+", "=")) if rng.random() < often else one(),
            60,
            500,
            "",
        )

    def encodings(self) -> str:
        """Data as text in whatever alphabet: some are used widely, others are drawn."""
        rng = self.rng
        printable = string.ascii_letters + string.digits + string.punctuation
        alphabet = rng.choice(
            (
                BASE58,
                string.ascii_uppercase + "234567",
                string.ascii_lowercase + string.digits,
                printable,
                "".join(map(chr, range(33, 118))),
                "01",
                "01234567",
                string.digits,
                "0123456789abcdef",
                "0123456789ABCDEF",
                "ACGTN",
                "".join(rng.sample(printable, rng.randint(3, 40))),
                "".join(rng.sample(string.ascii_letters + "()=#123", rng.randint(3, 30))),
            )
        )
        width = rng.choice((2, 3, 4, 6, 8, 12, 20, 32, 44, 60, 64, 76, 500))
        by = rng.choice(("\n", " ", ":", ",", "-", ".", "\n\t", " | ")) if width < 40 else "\n"
        many = rng.randint(300, 3000) // (width + len(by)) + 2
        if rng.random() < 0.1:
            lines = (
                base64.urlsafe_b64encode(rng.randbytes(rng.randint(9, 300))).decode()
                for _ in range(8)
            )
            return ".".join(lines)
        return by.join("".join(rng.choices(alphabet, k=width)) for _ in range(many))

    def addresses(self) -> str:
        rng = self.rng
        number = rng.randint

        def four() -> str:
            return ".".join(str(number(0, 255)) for _ in range(4))

        one = rng.choice(
            (
                four,
                lambda: f"{four()}/{number(8, 32)}",
                lambda: f"{four()}:{number(1, 65535)} -> {four()}:{number(1, 65535)} {self.word()}",
                lambda: ":".join(f"{rng.getrandbits(16):x}" for _ in range(8)),
                lambda: ":".join(f"{number(0, 255):02x}" for _ in range(6)),
                lambda: (
                    f"+{number(1, 99)} {number(100, 999)} {number(1000, 9999)}-{number(100, 999)}"
                ),
                lambda: (
                    f"{number(-90, 90)}.{number(0, 999999):06},{number(-180, 180)}.{number(0, 999999):06}"
                ),
                lambda: (
                    f"{self.word()}.{self.word()}{number(1, 99)}@{self.word()}.{rng.choice(('com', 'org', 'io', 'de'))}"
                ),
                lambda: (
                    f"{number(1, 28):02}/{number(1, 12):02}/{number(1970, 2030)} {self.clock()}"
                ),
                lambda: f"{self.when('T')}.{number(0, 10**6 - 1):06}+00:00",
                lambda: f"{rng.choice('$€£¥₹')}{number(1, 10**6):,}.{number(0, 99):02}",
                lambda: f"#{rng.getrandbits(24):06x}",
                lambda: (
                    f"rgba({number(0, 255)}, {number(0, 255)}, {number(0, 255)}, 0.{number(1, 9)})"
                ),
            )
        )
        return self.joined(one, 15, 150, rng.choice(("\n", ", ", " ", ";", " | ", "\n- ")))

    def columns(self) -> str:
        """Cells padded to columns, lines padded to their end, blank lines."""
        rng = self.rng
        widths = [rng.randint(3, 26) for _ in range(rng.randint(1, 8))]
        by = rng.choice(("", " ", "  ", "|", " | ", "\t"))
        pad = rng.choice((str.ljust, str.rjust, str.center))
        digits = rng.random()
        line = rng.choice(("", "", "-", "=", "─")) if by != "\t" else ""

        def cell(width: int) -> str:
            said = (
                str(rng.randrange(10 ** rng.randint(1, 8)))
                if rng.random() < digits
                else self.cased()
            )
            return pad(said[:width], width)

        rows = []
        for _ in range(rng.randint(6, 50)):
            rows.append(
                by.join(map(cell, widths)) + " " * rng.choice((0, 0, 0, rng.randint(1, 80)))
            )
            if line and rng.random() < 0.3:
                rows.append(rng.choice((by, "+", "|")).join(line * width for width in widths))
            rows += [""] * rng.choice((0, 0, 0, rng.randint(1, 9)))
        return "\n".join(rows)

    def pictures(self) -> str:
        """Pictures of marks, progress bars, boards."""
        rng = self.rng
        marks = rng.choice(
            (
                " .:-=+*#%@",
                "/\\|_ ",
                "XO. ",
                "123456789.",
                "#. ",
                "▀▄█ ",
                "█░",
                MARKS,
                "".join(EMOJI[:30]),
            )
        )
        inked = rng.choice((rng.random(), 1.0))
        by = rng.choice(("", "", " "))

        def row(width: int) -> str:
            said = ""
            while len(said) < width:
                run = rng.choice((1, 1, 1, rng.randint(2, 20)))
                said += (rng.choice(marks) if rng.random() < inked else marks[0]) * run
            return by.join(said[:width])

        width = rng.randint(8, 100)
        return "\n".join(row(width) for _ in range(rng.randint(6, 40)))

    def faces(self) -> str:
        """Words in scripts or faces that are rare, letters with marks on them."""
        rng = self.rng
        block = rng.choice(BLOCKS)
        letters = rng.choice((DIACRITICS, PHONETIC, "")) if rng.random() < 0.4 else ""
        marked = rng.random() < 0.15
        first, last = ord(block[0]), ord(block[1])

        def one() -> str:
            if marked:
                return "".join(
                    c + "".join(chr(rng.randint(0x300, 0x36F)) for _ in range(rng.randint(0, 4)))
                    for c in self.word()
                )
            if letters:
                return "".join(rng.choice((c, rng.choice(letters))) for c in self.word())
            if last - first in range(20, 70):
                # A face: the word's own letters, counted from the block's end.
                return "".join(chr(last - ord("z") + ord(c)) for c in self.word())
            return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 9)))

        return self.joined(one, 40, 250, rng.choice((" ", " ", "\n", ", ")))

    def chatter(self) -> str:
        """Short lines with pictures, shouts and laughter."""
        rng = self.rng

        def tail() -> str:
            return rng.choice(
                (
                    rng.choice(EMOJI) * rng.randint(1, 12),
                    "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 8))),
                    rng.choice("!?.") * rng.randint(1, 9),
                    rng.choice(("ha", "lol", "xD", "ja", "he", "www", "ㅋ", "5", "哈", "o"))
                    * rng.randint(1, 15),
                    "",
                )
            )

        def one() -> str:
            said = self.said(1, 9)
            said = rng.choice((said, said.lower(), said.upper()))
            return f"{rng.choice(('', f'{self.word()}: ', f'[{self.clock()}] {self.word()}: ', '- '))}{said} {tail()}"

        return self.joined(one, 8, 50)

    def mixed(self) -> str:
        """Passages of one language with words and names of another in it."""
        rng = self.rng
        passage = rng.choice(self.passages).split("\n")
        spaced = rng.choice((" ", " ", ""))

        def put() -> str:
            word = rng.choice(
                (
                    self.cased(),
                    f"`{self.word()}_{self.word()}`",
                    f"{self.word()}()",
                    self.said(1, 3),
                )
            )
            return f"{spaced}{word}{spaced}"

        often = rng.uniform(0.03, 0.15)
        said = []
        for line in passage:
            at = 0
            while at < len(line):
                step = max(2, int(rng.expovariate(often)))
                said.append(line[at : at + step] + put())
                at += step
            said.append("\n")
        return "".join(said)[:5000]

    def diffs(self) -> str:
        """Changes of code, in the form of `diff -u`, `git diff` or `diff`."""
        rng = self.rng
        old = rng.choice(self.code).split("\n")
        new = []
        for line in old:
            fate = rng.random()
            if fate < 0.08:
                new.append(line.replace(rng.choice((" ", "(", "=")), f" {self.word()} ", 1))
            elif fate < 0.14:
                new += [line, line.replace(self.word(), self.word()) + self.word()]
            elif fate > 0.06 + 0.1:
                new.append(line)
        name = "/".join(self.word() for _ in range(rng.randint(1, 4)))
        if rng.random() < 0.2:
            return "\n".join(difflib.ndiff(old, new))
        lines = difflib.unified_diff(
            old, new, f"a/{name}", f"b/{name}", lineterm="", n=rng.choice((1, 3))
        )
        index = f"index {rng.getrandbits(28):07x}..{rng.getrandbits(28):07x} 100644"
        return "\n".join((f"diff --git a/{name} b/{name}", index, *lines))

    def markup(self) -> str:
        """Attributes, labels, manifests, packed code: names, marks and numbers in a few shapes."""
        rng = self.rng
        word, number = self.word, rng.randint

        def shape(depth: int = 0) -> Callable[[], str]:
            basic: tuple[Callable[[], str], ...] = (
                word,
                lambda: f"{word()}-{word()}",
                lambda: f"{word()}_{word()}",
                lambda: str(number(0, 10 ** rng.randint(1, 6))),
                lambda: f"{rng.random() * 100:.{rng.randint(1, 4)}f}",
                lambda: f'"{word()} {word()}"',
                lambda: rng.choice("abcdefghijklmnopqrstuvwxyz"),
                lambda: f"{word()}.{word()}",
                self.cased,
            )
            if depth > 2 or rng.random() < 0.4:
                return rng.choice(basic)
            inner, other = shape(depth + 1), shape(depth + 1)
            forms: tuple[Callable[[], str], ...] = (
                lambda: f"({inner()},{other()})",
                lambda: f"{inner()}: {other()}",
                lambda: f'{inner()}="{other()}"',
                lambda: f"{{{inner()}:{other()}}}",
                lambda: f"[{inner()}, {other()}]",
                lambda: f"<{word()} {inner()}>{other()}</{word()}>",
                lambda: f"{inner()} {other()}",
                lambda: f"{inner()}&&{other()}",
                lambda: f"{inner()}\n  {other()}",
                lambda: f"- {inner()}\n{other()}",
                lambda: f"function({inner()}){{return {other()}}}",
                lambda: f"{inner()};{other()}",
                lambda: f"\\{word()}{{{inner()}}}_{{{other()}}}",
            )
            return rng.choice(forms)

        return self.joined(
            shape(), 10, 90, rng.choice(("\n", " ", "", ";", ",\n", "\n\t", "\n    "))
        )


KINDS = (
    "identifiers misspelt traces escapes encodings addresses columns pictures faces chatter mixed "
    "diffs markup"
).split()
