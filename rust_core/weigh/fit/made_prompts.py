"""Text as people paste it into prompts: paths, sessions, formulas, settings, records, made from a seed.

Words and names are those of the code and passages on the same side, so that what is held out has other
words than what is fitted to. Shapes are drawn for each text, so that no single one is learnt."""

# ruff: noqa: E501, RUF001

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable

from made_more import More

FOLDERS = (
    "usr lib share src bin etc var log home opt tmp local include node_modules dist build test tests docs "
    "doc main java com org app apps api core utils config data assets components pages public static "
    "templates internal pkg cmd vendor packages site-packages python3.11 x86_64-linux-gnu .git .github "
    "workflows scripts tools examples target release debug Users Documents Downloads Desktop Program%Files "
    "System32 Windows AppData Local Library Frameworks resources models views controllers services"
).split()
ENDINGS = (
    "py rs go js ts tsx jsx json yaml yml toml md txt html css scss java kt swift c h cpp hpp so so.6 gz "
    "tar.gz zip png jpg svg pdf log conf cfg ini sh sql csv xml lock min.js d.ts test.ts spec.js rb php"
).split()
COMMANDS = (
    "ls -la|cd|cat|grep -rn|git status|git log --oneline|git checkout -b|git commit -m|docker ps -a|"
    "docker run --rm -it|kubectl get pods -n|kubectl describe|npm install|npm run|pip install -r|"
    "cargo build --release|make -j8|sudo systemctl restart|curl -sS -X POST|ssh -i|scp|tar xzf|find . -name|"
    "sed -i|awk '{print $1}'|python -m|export|chmod +x|ps aux|df -h|tail -f|rm -rf|echo|apt-get install -y"
).split("|")
GREEK = "alpha beta gamma delta epsilon theta lambda mu pi rho sigma phi psi omega Gamma Delta Sigma Omega"
MATHS = (
    "times cdot leq geq neq approx in subset cup cap to infty partial nabla forall exists rightarrow pm "
    "sim equiv mapsto quad ldots cdots"
).split()
OPERATORS = "sum int prod lim max min sup log exp sin cos bigcup oint".split()
WRAPS = "mathbb mathcal mathbf mathrm hat tilde bar vec text operatorname overline".split()
SETS = "RNZQCEPF"
SIGNS = "∀∃∈∉∑∏∫∂∇√∞≈≠≤≥±×÷→⇒⇔∧∨¬∪∩⊂⊆αβγδεθλμπρσφψωΔΣΩℝℕℤ₀₁₂ᵢⱼₙ⁰¹²³ⁿ‖·"
VOWELS, CONSONANTS = "aeiouæɑɒɔəɛɜɪʊʌiːuːɑːɔː", "pbtdkgfvszhmnlrwjθðʃʒŋɹɾʔɡ"
TONES = "āáǎàēéěèīíǐìōóǒòūúǔùüǖǘǚǜaeiou"
INITIALS = "b p m f d t n l g k h j q x zh ch sh r z c s y w".split()
FINALS = "n ng i o u a ai ei ao ou an en ang eng ong".split()


class Prompts(More):
    """A maker of what stands in prompts of people who work with computers."""

    def name(self) -> str:
        """A word, mostly of code."""
        if not hasattr(self, "_names"):
            found = re.findall(
                r"[A-Za-z][a-z]{1,11}", " ".join(self.code[:: 1 + len(self.code) // 800])
            )
            self._names = [one.lower() for one in found]
        return self.rng.choice(self._names) if self.rng.random() < 0.7 else self.word()

    def digits(self, most: int) -> str:
        return str(self.rng.randrange(10 ** self.rng.randint(1, most)))

    def letters(self, alphabet: str, least: int, most: int) -> str:
        return "".join(self.rng.choices(alphabet, k=self.rng.randint(least, most)))

    def numbered(self) -> str:
        """Words and numbers that touch."""
        rng, name, digits = self.rng, self.name, self.digits
        face = rng.choice((str, str, str.title, str.upper))
        most = rng.randint(1, 6)
        shapes: list[Callable[[], str]] = [
            lambda: face(name()) + digits(most),
            lambda: digits(most) + face(name()),
            lambda: face(name()) + digits(most) + face(name()),
            lambda: rng.choice(string.ascii_letters) + digits(most),
            lambda: f"{face(name())}{rng.choice('_-.#:')}{digits(most)}",
            lambda: f"v{digits(2)}.{digits(2)}.{digits(2)}",
            lambda: digits(4) + rng.choice("px em ms KB MB GB GiB % k th x s m h °C rem".split()),
            lambda: "".join(
                rng.choice((digits(2), self.letters(string.ascii_letters, 1, 3)))
                for _ in range(rng.randint(2, 7))
            ),
            lambda: f"{face(name())}({digits(most)})",
            lambda: f"{face(name())}[{digits(2)}]",
            lambda: f"{face(name())[:1]}{digits(1)}_{name()}{digits(1)}",
        ]
        some = rng.sample(shapes, rng.randint(1, 3))
        return self.joined(
            lambda: rng.choice(some)(),  # noqa: PLW0108
            30,
            300,
            rng.choice((" ", " ", "\n", ", ", ",", " | ")),
        )

    def folder(self) -> str:
        rng = self.rng
        if rng.random() < 0.55:
            return rng.choice(FOLDERS).replace("%", " ")
        by = rng.choice("--__.")
        said = by.join(self.name() for _ in range(rng.choice((1, 1, 2, 3))))
        return rng.choice(
            (said, said, said, said.title().replace(by, ""), f"{said}{by}{self.digits(2)}")
        )

    def file(self) -> str:
        return f"{self.folder()}.{self.rng.choice(ENDINGS)}"

    def path(self, by: str = "/") -> str:
        return by.join(self.folder() for _ in range(self.rng.randint(1, 7)))

    def file_paths(self) -> str:
        rng = self.rng
        style = rng.randrange(6)
        by = "\\" if style == 0 else "/"
        roots = [self.path(by) for _ in range(rng.randint(1, 8))]
        head = (
            rng.choice(("/", "./", "", "~/", "../", "a/"))
            if style
            else rng.choice(("C:\\", "D:\\", ""))
        )
        mark = rng.choice(("", "", "", "", f":{self.digits(3)}", '"', ","))

        def one() -> str:
            root = rng.choice(roots) if rng.random() < 0.8 else self.path(by)
            parts = [root, *(self.folder() for _ in range(rng.randint(0, 3))), self.file()]
            return head + by.join(parts) + mark

        lines = [one() for _ in range(rng.randint(8, 80))]
        if style == 1:
            lines.sort()
        if style == 2:
            return "\n".join(
                f"{'│   ' * rng.randint(0, 4)}{rng.choice('├└')}── {self.file()}" for _ in lines
            )
        return "\n".join(lines)

    def sessions(self) -> str:
        """Commands at a prompt, with what they print."""
        rng = self.rng
        prompt = rng.choice(
            ("$ ", "# ", "> ", f"{self.name()}@{self.name()}:~/{self.path()}$ ", "➜  ~ ", ">>> ")
        )

        def listing() -> str:
            return "\n".join(
                f"{rng.choice('-dl')}rw{rng.choice('x-')}r-{rng.choice('x-')}r-- {rng.randint(1, 12):>2} {rng.choice(('root root', 'user staff'))} "
                f"{rng.randrange(10 ** rng.randint(2, 7)):>{8}} {rng.choice('Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split())} {rng.randint(1, 28):>2} {self.clock()[:5]} {self.file()}"
                for _ in range(rng.randint(2, 12))
            )

        def status() -> str:
            rows = "\n".join(
                f"\tmodified:   {self.path()}/{self.file()}" for _ in range(rng.randint(1, 7))
            )
            return f"On branch {self.name()}/{self.name()}-{self.name()}\nChanges not staged for commit:\n{rows}"

        def history() -> str:
            return "\n".join(
                f"{rng.getrandbits(28):07x} {self.said(3, 9)}" for _ in range(rng.randint(2, 12))
            )

        def pods() -> str:
            head = f"{'NAME':<45}READY   STATUS    RESTARTS   AGE"
            rows = (
                f"{f'{self.name()}-{self.name()}-{rng.getrandbits(36):09x}-{self.letters(string.ascii_lowercase + string.digits, 5, 5)}':<45}1/1     "
                f"{rng.choice(('Running  ', 'Pending  ', 'Error    '))} {rng.randint(0, 30):<10} {rng.randint(1, 90)}{rng.choice('dhm')}"
                for _ in range(rng.randint(2, 9))
            )
            return "\n".join((head, *rows))

        def error() -> str:
            return f"{self.name()}: {self.path()}/{self.file()}: {rng.choice(('No such file or directory', 'Permission denied', 'command not found', 'fatal error', 'warning: unused variable'))}"

        def disk() -> str:
            return "\n".join(
                f"/dev/{rng.choice(('sda', 'nvme0n1p', 'loop'))}{rng.randint(0, 9)}{rng.randint(1, 999):>10}G{rng.randint(1, 99):>6}G{rng.randint(1, 99):>6}G{rng.randint(1, 99):>5}% /{self.path()}"
                for _ in range(rng.randint(2, 6))
            )

        outputs = (
            listing,
            status,
            history,
            pods,
            error,
            disk,
            lambda: self.said(5, 30),
            lambda: "",
        )

        def command() -> str:
            of = rng.choice(
                (
                    self.name,
                    self.file,
                    self.path,
                    lambda: f"--{self.name()}={self.digits(3)}",
                    lambda: f'"{self.said(2, 6)}"',
                )
            )
            pipe = rng.choice(("", "", "", f" | grep {self.name()}", " 2>&1 | tee out.log", " && "))
            return f"{prompt}{rng.choice(COMMANDS)} {of()}{pipe}\n{rng.choice(outputs)()}"

        return self.joined(command, 3, 15)

    def formulas(self) -> str:
        """Mathematics in TeX, or in signs."""
        rng = self.rng
        greek = GREEK.split()
        shapes = (
            "\\frac{@}{@}",
            "@_{@}",
            "@_i",
            "@_n",
            "@_1",
            "@_{@}",
            "@^2",
            "@^T",
            "@^{@}",
            "@ + @",
            "@ - @",
            "@ = @",
            "@ < @",
            "\\O_{@} @",
            "\\O_{i=1}^{@} @",
            "\\O @",
            "\\sqrt{@}",
            "\\left( @ \\right)",
            "\\W{@}",
            "\\W{@}",
            "@ \\M @",
            "@ \\M @",
            "f(@)",
            "P(@)",
            "@, @",
            "\\left[ @ \\right]",
        )

        def term(depth: int = 0) -> str:
            if depth > 3 or rng.random() < 0.3:
                return rng.choice(
                    (
                        rng.choice(string.ascii_letters),
                        rng.choice("xyznkij"),
                        self.digits(2),
                        f"\\{rng.choice(greek)}",
                        f"\\{rng.choice(WRAPS[:4])}{{{rng.choice(SETS)}}}",
                    )
                )
            shape = (
                rng.choice(shapes)
                .replace("\\O", f"\\{rng.choice(OPERATORS)}")
                .replace("\\M", f"\\{rng.choice(MATHS)}")
                .replace("\\W", f"\\{rng.choice(WRAPS)}")
            )
            return re.sub("@", lambda _: term(depth + 1), shape)

        def sign(least: int, most: int) -> str:
            return "".join(
                rng.choice((rng.choice(SIGNS), rng.choice("xyznkij()+-=|,"), " ", self.digits(1)))
                for _ in range(rng.randint(least, most))
            )

        style = rng.randrange(6)
        spaced = rng.random() < 0.8

        def one() -> str:
            said = term() if spaced else term().replace(" ", "")
            return (
                f"${said}$",
                f"$${said}$$",
                f"\\begin{{equation}}\\label{{eq:{self.name()}}}\n{said}\n\\end{{equation}}",
                f"{self.said(2, 9)} ${said}$ {self.said(1, 6)}",
                f"\\[ {said} \\]",
                f"{self.said(1, 5)} {sign(5, 30)}",
            )[style]

        return self.joined(one, 8, 40)

    def phonetic(self) -> str:
        rng = self.rng
        style = rng.randrange(3)

        def one() -> str:
            if style == 0:
                inner = "".join(
                    self.letters(CONSONANTS, 0, 2) + rng.choice(VOWELS)
                    for _ in range(rng.randint(1, 4))
                )
                return rng.choice(("/{}/", "[{}]", "{}", "/ˈ{}/", "ˌ{}")).format(
                    inner + rng.choice(CONSONANTS)
                )
            if style == 1:
                return (
                    rng.choice(INITIALS)
                    + rng.choice(TONES)
                    + rng.choice(FINALS) * rng.randint(0, 1)
                )
            return f"{self.name()} /{''.join(rng.choice(CONSONANTS + VOWELS) for _ in range(rng.randint(2, 9)))}/"

        return self.joined(one, 40, 300, rng.choice((" ", " ", "\n", ", ")))

    def patterns(self) -> str:
        """Rulers of two or three marks in turn, boxes, and what stands between them."""
        rng = self.rng
        marks = "-=*_#~.+/<>^%$&@!|:;,'\"\\()[]{} oxXO0vV─━═░▒▓│·•"
        units = [self.letters(marks, 2, 4) for _ in range(rng.randint(1, 4))]

        def one() -> str:
            row = rng.choice(units) * rng.randint(3, 45)
            return rng.choice(
                (
                    row,
                    f"{row}\n{self.said(1, 8)}",
                    f"# {row}",
                    f"{row[:20]} {self.said(1, 4)} {row[:20]}",
                )
            )

        return self.joined(one, 3, 30)

    def regexes(self) -> str:
        rng = self.rng

        def atom() -> str:
            return rng.choice(
                (
                    "\\d",
                    "\\w",
                    "\\s",
                    "\\S",
                    "\\b",
                    ".",
                    "[a-z]",
                    "[A-Z]",
                    "[0-9]",
                    "[a-zA-Z0-9_]",
                    "[^\\s]",
                    "[^/]",
                    "\\.",
                    "\\/",
                    "\\-",
                    "\\(",
                    self.name(),
                    rng.choice(string.ascii_letters),
                    f"[{self.letters(string.ascii_letters + '.-_', 2, 5)}]",
                    "\\n",
                    "\\t",
                    "\\\\",
                    f"\\x{rng.getrandbits(8):02x}",
                    f"\\u{rng.getrandbits(16):04X}",
                    "\\p{L}",
                    '[^"]',
                    "$1",
                )
            )

        def some(depth: int = 0) -> str:
            said = ""
            for _ in range(rng.randint(1, 5)):
                inner = (
                    atom()
                    if depth > 2 or rng.random() < 0.7
                    else rng.choice(
                        ("({})", "(?:{})", "(?={})", "(?!{})", "(?P<x>{})", "(?<={})")
                    ).format(some(depth + 1))
                )
                said += inner + rng.choice(
                    (
                        "",
                        "",
                        "",
                        "+",
                        "*",
                        "?",
                        "*?",
                        f"{{{rng.randint(1, 9)}}}",
                        f"{{{rng.randint(1, 3)},{rng.randint(4, 9)}}}",
                        "|",
                    )
                )
            return said

        shape = rng.choice(
            ("^{}$", "/{}/gi", 'r"{}"', "{}", "s/{}/x/g", "re.compile(r'{}')", "{}  {}")
        )
        return self.joined(lambda: shape.format(some(), self.name()), 8, 50)

    def settings(self) -> str:
        rng, name = self.rng, self.name

        def value() -> str:
            return rng.choice(
                (
                    self.digits(5),
                    "true",
                    "false",
                    name(),
                    f'"{name()} {name()}"',
                    f"/{self.path()}",
                    f"https://{name()}.example.com:{self.digits(4)}/{name()}",
                    f"{self.digits(3)}{rng.choice(('ms', 's', 'MB', '%'))}",
                    f"{name()},{name()}",
                    self.letters(string.ascii_letters + string.digits, 16, 40),
                )
            )

        by = rng.choice("__.-")
        face = rng.choice((str.upper, str, str.title)) if by == "_" else str
        form = rng.choice(
            (
                "{}={}",
                "{} = {}",
                "{}: {}",
                "export {}={}",
                "--{} {}",
                '"{}": {},',
                "{}\t{}",
                "set {} {};",
                "- {}: {}",
                "ENV {}={}",
            )
        )
        section = rng.choice(("", "[{}]", "# {}", "; {}", "{}:"))

        def one() -> str:
            said = form.format(face(by.join(name() for _ in range(rng.randint(1, 4)))), value())
            return (
                section.format(face(name())) + "\n" + said
                if section and rng.random() < 0.15
                else said
            )

        return self.joined(one, 12, 70)

    def fragments(self) -> str:
        """What stands in binaries: mangled names, formats, and bytes that happen to be printable."""
        rng, name = self.rng, self.name
        printable = string.ascii_letters + string.digits + string.punctuation + " "
        some = rng.choice(
            (printable, "AVWUTSH[]\\^_A$D|LtHfd0 18@", string.ascii_uppercase + "$@|", printable)
        )
        shares = [rng.random() ** 2 for _ in range(6)]

        def mangled() -> str:
            words = [name() for _ in range(rng.randint(1, 4))]
            return rng.choice(
                ("_ZN{}Ev", "_ZNSt{}E", "_ZTI{}", "_ZNK{}EPKcj", "?{}@@QAEXXZ")
            ).format("".join(f"{len(w)}{w}" for w in words))

        shapes = (
            lambda: self.letters(some, 4, rng.choice((5, 8, 14))),
            mangled,
            lambda: "_".join(name() for _ in range(rng.randint(2, 5))),
            lambda: f"{self.said(1, 7)}: %{rng.choice('sduxp')}",
            lambda: f"GLIBC_2.{rng.randint(2, 38)}",
            lambda: f".{name()}.{name()}",
        )
        return self.joined(lambda: rng.choices(shapes, shares)[0](), 30, 250)  # noqa: PLW0108

    def requests(self) -> str:
        """Heads of HTTP and of letters, calls by curl."""
        rng, name = self.rng, self.name
        token = string.ascii_letters + string.digits + "-_"

        def host() -> str:
            return f"{rng.choice(('www', 'api', 'mail', name()))}.{name()}{rng.choice(('', name(), '-' + name()))}.{rng.choice('com org net io co.uk de dev'.split())}"

        def url() -> str:
            query = "&".join(
                f"{name()}={rng.choice((name(), self.digits(6), self.letters(token, 6, 24)))}"
                for _ in range(rng.randint(0, 4))
            )
            dated = rng.choice(("", "", f"{rng.randint(2000, 2026)}/{rng.randint(1, 12):02}/"))
            tail = "-".join(name() for _ in range(rng.randint(1, 6)))
            return f"https://{host()}/{rng.choice(('', name() + '/', self.path() + '/'))}{dated}{tail}{rng.choice(('', '.html', '/', '#' + name()))}{'?' + query if query else ''}"

        def head() -> str:
            return rng.choice(
                (
                    f"{rng.choice(('GET', 'POST', 'PUT', 'DELETE'))} /{self.path()}?{name()}={self.digits(4)} HTTP/1.1",
                    f"Host: {host()}",
                    f"{name().title()}-{name().title()}: {name()}/{self.digits(2)}.{self.digits(2)}",
                    f"Authorization: Bearer {self.letters(token, 20, 80)}",
                    f"Content-Type: application/{name()}; charset=utf-8",
                    f"Cookie: {name()}={self.letters(token, 8, 32)}; {name()}_{name()}={self.digits(9)}",
                    f"From: {name().title()} {name().title()} <{name()}.{name()}{self.digits(2)}@{host()}>",
                    f"Subject: Re: {self.said(2, 9)}",
                    f"Date: Tue, {rng.randint(1, 28)} Mar 20{rng.randint(10, 29)} {self.clock()} +0{rng.randint(0, 9)}00",
                    f"Received: from {host()} ([10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}]) by {host()} with ESMTPS id {self.letters(token, 10, 16)}",
                    f"curl -X POST {url()} -H 'Accept: */*' -d '{json.dumps({name(): name(), name(): rng.randrange(999)})}'",
                    url(),
                )
            )

        return self.joined(rng.choice((head, head, url)), 6, 40, rng.choice(("\n", "\n", " ")))

    def records(self) -> str:
        """Rows of a table: names, dates, sums, marks, as CSV, SQL, JSON or otherwise."""
        rng, name = self.rng, self.name
        fields: tuple[Callable[[], str], ...] = (
            lambda: f"{name().title()} {name().title()}",
            lambda: self.digits(6),
            lambda: f"{rng.random() * 10 ** rng.randint(0, 5):.2f}",
            lambda: f"{name()}@{name()}.com",
            lambda: f"{rng.randint(1, 28)}/{rng.randint(1, 12)}/{rng.randint(1950, 2029)}",
            lambda: self.when(" "),
            lambda: rng.choice(("TRUE", "FALSE", "true", "false", "null", "", "N/A", "NULL")),
            lambda: name().upper()[:3],
            self.name,
            lambda: self.said(2, 8),
            lambda: f"{rng.gauss(0, 10 ** rng.randint(0, 3)):.{rng.randint(3, 8)}f}",
            lambda: f"{rng.getrandbits(64):016x}",
            lambda: f"{name()}_{name()}",
            lambda: f"{rng.choice('$€£')}{rng.randrange(10**6):,}",
        )
        columns = [rng.choice(fields) for _ in range(rng.randint(3, 9))]
        keys = [
            rng.choice((name(), f"{name()}_{name()}", f"{name()}{name().title()}")) for _ in columns
        ]
        style = rng.randrange(6)
        quote = rng.choice(("", "", '"', "'"))
        by = rng.choice((",", ", ", "\t", ";", "|", " | "))

        def row() -> str:
            values = [one() for one in columns]
            if style == 0:
                return json.dumps(dict(zip(keys, values, strict=True)))
            if style == 1:
                return f"INSERT INTO {keys[0]} ({', '.join(keys)}) VALUES ({', '.join(repr(value) for value in values)});"  # noqa: S608
            if style == 2:
                return " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
            return by.join(f"{quote}{value}{quote}" for value in values)

        return self.joined(row, 5, 40)

    def figures(self) -> str:
        """Numbers in whatever form: tensors, coordinates, paths of drawings, words of memory."""
        rng = self.rng
        scale, places = rng.randint(-2, 5), rng.randint(0, 9)
        width = rng.choice((0, 0, 6, 9, 12))
        hexes = rng.choice((2, 4, 8, 16))
        one = rng.choice(
            (
                lambda: f"{rng.gauss(0, 10.0**scale):{width}.{places}f}",
                lambda: f"{rng.gauss(0, 10.0**scale):{width}.{places}e}",
                lambda: f"{rng.random() * 10**scale:{width}.{places}g}",
                lambda: str(rng.randint(-(10 ** abs(scale)), 10 ** (abs(scale) + 1))),
                lambda: (
                    f"{rng.choice('MLCHVSQZmlchvsqz')}{rng.gauss(0, 99):.{places % 4}f},{rng.gauss(0, 99):.{places % 4}f}"
                ),
                lambda: f"{rng.getrandbits(4 * hexes):0{hexes}x}",
                lambda: f"({rng.uniform(-90, 90):.{places}f}, {rng.uniform(-180, 180):.{places}f})",
                lambda: f"{rng.gauss(0, 10.0**scale):+.{places}f}",
            )
        )
        by = rng.choice((", ", ",", " ", "  ", "\t", ";", " "))
        open_, close = rng.choice((("", ""), ("[", "],"), ("(", "),"), ("{", "}"), ("    ", "")))
        many = rng.randint(1, 16)
        at = iter(range(0, 10**6, 16))
        index = rng.choice(
            (lambda: "", lambda: "", lambda: f"{next(at):06x} ", lambda: f"{next(at):>5}: ")
        )
        return self.joined(
            lambda: f"{index()}{open_}{by.join(one() for _ in range(many))}{close}",
            8,
            500 // many + 9,
        )

    def spacing(self) -> str:
        """Words with much white space around."""
        rng = self.rng
        blank = rng.choice((" ", " ", "\t", "\n", "\r\n"))
        most = rng.choice((2, 5, 12, 40, 90))
        tail = rng.choice(("", "", " ", "\t", "\n"))

        def one() -> str:
            said = self.name() if rng.random() < 0.7 else self.said(1, 5)
            return said + blank * rng.randint(1, most) + tail * rng.randint(0, 9)

        return self.joined(one, 20, 120, rng.choice(("", "\n", " ")))


KINDS = (
    "numbered file_paths sessions formulas phonetic patterns regexes settings fragments requests records "
    "figures spacing"
).split()
