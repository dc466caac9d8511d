"""Text that no package has enough of: rulers, encoded data, numbers, logs, made from a seed."""
# ruff: noqa: RUF001

from __future__ import annotations

import base64
import itertools
import json
import math
import random
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import dataclass

MARKS = "-=*_#~.+/<>^%$&@!?|:;,'`\"\\─═━█▒░•·…–—─│"
SYMBOLS = (
    "←↑→↓⇒⇔∀∃∈∉∑∏√∞≈≠≤≥±×÷∫∂∇αβγλμπσΩ°•◦▪■□▲△◆○●★☆✓✗§¶†‡©®™€£¥¢…“”‘’«»–—⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    "│┌┐└┘├┤┬┴┼─═║╔╗╚╝▁▂▃▄▅▆▇█"
)
EMOJI = (
    "😀 😃 😄 😁 😆 😅 🤣 😂 🙂 😉 😊 😍 😘 😋 "
    "😎 🤔 😢 😭 😡 👍 👎 🙏 💪 🎉 🔥 ✨ ⭐ ❤️ "
    "💯 🚀 ✅ ❌ ⚠️ 📦 🐛 🎯 🌍 ☀️ 🌧️ 🍕 🎂 🏆 "
    "⚽ 🐶 🐱 👨‍👩‍👧 👩‍💻 🇩🇪 🇫🇷 🇯🇵 🇺🇸 👋🏽 🤷‍♀️ 📈 📉 💡 "
    "🔒 🛠️ 🕐 🥳 🫠 🧠 💻 📱 🗓️ ➡️ ⬆️ "
).split()
HOSTS = (
    "example.com api.example.org cdn.example.net docs.rs shop.example.co.uk 10.0.3.17:8080 "
    "localhost:3000"
).split()
LINES = "} { ] return\tx end if\t(a)\t{ else: pass -\titem </div> <div> x\t=\t1 | break; ], });"


@dataclass
class Maker:
    """Makes texts of prose words, of the same words in lower case, of accented passages, of
    passages in other scripts, and of code."""

    rng: random.Random
    prose: list[str]
    words: list[str]
    accented: list[str]
    passages: list[str]
    code: list[str]

    def word(self) -> str:
        return self.rng.choice(self.words)

    def said(self, least: int, most: int) -> str:
        at = self.rng.randrange(len(self.prose) - most - 1)
        return " ".join(self.prose[at : at + self.rng.randint(least, most)])

    def log_uniform(self, least: float, most: float) -> int:
        return int(math.exp(self.rng.uniform(math.log(least), math.log(most))))

    def joined(self, one: Callable[[], str], least: int, most: int, by: str = "\n") -> str:
        return by.join(one() for _ in range(self.rng.randint(least, most)))

    def rulers(self) -> str:
        rng = self.rng
        style = rng.randrange(5)

        def ruler() -> str:
            mark = rng.choice("-=*_#~." if rng.random() < 0.7 else MARKS)
            length = self.log_uniform(4, 150)
            columns = "+".join(mark * rng.randint(3, 20) for _ in range(rng.randint(1, 6)))
            run = mark * length
            return [run, f"/{'*' * length}/", f"# {run}", f"// {run}", f"+{columns}+"][style]

        lines = [ruler() for _ in range(rng.randint(8, 60))]
        return "\n".join([lines[0]] * len(lines) if rng.random() < 0.5 else lines) + "\n"

    def one_character(self) -> str:
        return self.rng.choice("-=*_#~.+/0aA1xz \n\t─═█•") * self.log_uniform(300, 6000)

    def leaders(self) -> str:
        def line() -> str:
            title = self.said(1, 6)
            dots = "." * max(3, self.rng.choice([60, 72, 78]) - len(title))
            return f"{title} {dots} {self.rng.randint(1, 400)}"

        return self.joined(line, 8, 40)

    def base64(self) -> str:
        data = self.rng.randbytes(self.rng.randint(300, 4000))
        text = base64.b64encode(data).decode()
        lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
        return self.rng.choice([text, lines, base64.urlsafe_b64encode(data).decode()])

    def hex(self) -> str:
        rng = self.rng
        data = rng.randbytes(rng.randint(150, 900))

        def dump() -> str:
            rows = (data[i : i + 16] for i in range(0, len(data), 16))
            return "\n".join(
                f"{16 * i:08x}  {row[:8].hex(' ')}  {row[8:].hex(' ')}  |"
                + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
                + "|"
                for i, row in enumerate(rows)
            )

        return rng.choice(
            [
                self.joined(
                    lambda: rng.randbytes(rng.choice([4, 8, 16, 20, 32])).hex(), 10, 60, " "
                ),
                data.hex(),
                data.hex(" "),
                ", ".join(f"0x{byte:02x}" for byte in data),
                data.hex().upper(),
                dump(),
            ]
        )

    def uuids(self) -> str:
        ids = [
            str(uuid.UUID(bytes=self.rng.randbytes(16))) for _ in range(self.rng.randint(12, 80))
        ]
        table = "\n".join(f"{i},{one.upper()}" for i, one in enumerate(ids))
        return self.rng.choice(["\n".join(ids), ", ".join(f'"{one}"' for one in ids), table])

    def numbers(self) -> str:
        rng = self.rng
        many = rng.randint(60, 400)

        def decimal() -> str:
            return f"{rng.random() * 10 ** rng.randint(0, 6):.{rng.randint(0, 6)}f}"

        def normal() -> str:
            return f"{rng.gauss(0, 10 ** rng.randint(0, 4)):.{rng.choice([2, 3, 4, 6])}f}"

        def reading() -> str:
            return f"{self.when('T')}.{rng.randint(0, 999):03}Z,{rng.randint(1, 10**6)},{decimal()}"

        def row(one: Callable[[], str], columns: int, by: str) -> str:
            return by.join(one() for _ in range(columns))

        style = rng.randrange(6)
        lines = range(many // 6)
        if style == 0:
            return row(decimal, many, ", ")
        if style == 1:
            return "\n".join(row(normal, rng.randint(3, 10), ",") for _ in lines)
        if style == 2:
            return row(lambda: str(rng.randrange(10 ** rng.randint(1, 9))), many, " ")
        if style == 3:
            return row(lambda: str(rng.randrange(10)), many * 6, "")
        if style == 4:
            return "\n".join(
                row(lambda: f"{rng.random():.{rng.randint(3, 16)}e}", 4, "\t") for _ in lines
            )
        return "\n".join(reading() for _ in lines)

    def urls(self) -> str:
        rng = self.rng

        def value() -> str:
            return rng.choice(
                [
                    str(rng.randint(1, 99999)),
                    rng.randbytes(8).hex(),
                    self.word(),
                    self.joined(self.word, 3, 3, "%20"),
                    base64.urlsafe_b64encode(rng.randbytes(12)).decode(),
                ]
            )

        def pair() -> str:
            return f"{rng.choice('id q utm_source page token sort lang ref'.split())}={value()}"

        def url() -> str:
            path = self.joined(lambda: self.joined(self.word, 1, 4, "-"), 1, 4, "/")
            query = "?" + self.joined(pair, 1, 4, "&") if rng.random() < 0.5 else ""
            return f"https://{rng.choice(HOSTS)}/{path}{query}"

        return self.joined(url, 8, 40, rng.choice(["\n", " "]))

    def indentation(self) -> str:
        unit = self.rng.choice(["    ", "  ", "\t"])
        depth = 0
        lines = []
        for _ in range(self.rng.randint(20, 90)):
            depth = max(0, min(12, depth + self.rng.choice([-2, -1, 0, 0, 1, 1])))
            said = self.rng.choice(LINES.split(" ")).replace("\t", " ").replace("|", "")
            lines.append(unit * depth + said)
        return "\n".join(lines)

    def emoji(self) -> str:
        def one() -> str:
            return self.rng.choice(EMOJI)

        style = self.rng.randrange(3)
        if style < 2:
            return self.joined(one, 80, 300, " " * style)
        return self.joined(lambda: f"{self.said(1, 6)} {self.joined(one, 1, 5, '')}", 8, 40)

    def symbols(self) -> str:
        rng = self.rng
        style = rng.randrange(3)
        if style == 0:
            return self.joined(lambda: rng.choice(SYMBOLS), 200, 1200, "")
        if style == 1:
            widths = [rng.randint(4, 18) for _ in range(rng.randint(3, 7))]

            def cell(width: int) -> str:
                return f" {self.word()}"[: width - 1].ljust(width)

            rows = ["│" + "│".join(map(cell, widths)) + "│" for _ in range(rng.randint(4, 20))]
            line = "├" + "┼".join("─" * width for width in widths) + "┤"
            return "\n".join(itertools.chain.from_iterable((row, line) for row in rows))
        few = rng.sample(SYMBOLS, rng.randint(1, 6))
        return self.joined(lambda: rng.choice(few), 300, 1500, "")

    def random_letters(self) -> str:
        rng = self.rng
        lower = "abcdefghijklmnopqrstuvwxyz"
        alphabet = rng.choice(["acgt", "ACGT", lower, "ACDEFGHIKLMNPQRSTVWY", None])
        if alphabet:
            return "".join(rng.choices(alphabet, k=rng.randint(400, 2500)))
        mixed = lower * 3 + lower.upper() + "0123456789"
        return self.joined(lambda: "".join(rng.choices(mixed, k=rng.randint(3, 16))), 40, 250, " ")

    def decomposed(self) -> str:
        if self.rng.random() < 0.1:
            return "e\u0301" * self.rng.randint(100, 2000)
        return unicodedata.normalize("NFD", self.rng.choice(self.accented))

    def when(self, by: str) -> str:
        rng = self.rng
        return f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}{by}{self.clock()}"

    def clock(self) -> str:
        rng = self.rng
        return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"

    def logs(self) -> str:
        rng = self.rng

        def ip() -> str:
            return self.joined(lambda: str(rng.randint(1, 254)), 4, 4, ".")

        def access() -> str:
            path = self.joined(self.word, 1, 4, "/")
            return (
                f"{ip()} - - [{rng.randint(1, 28):02}/Mar/2026:{self.clock()} +0000] "
                f'"{rng.choice(["GET", "POST", "PUT"])} /{path} HTTP/1.1" '
                f"{rng.choice([200, 201, 304, 404, 500, 503])} {rng.randint(20, 99999)} "
                '"-" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"'
            )

        def service() -> str:
            name = self.joined(self.word, 3, 3, ".")
            return (
                f"{self.when(rng.choice('T '))}.{rng.randint(0, 999):03}Z "
                f"{rng.choice(['INFO', 'WARN', 'ERROR', 'DEBUG'])} [{self.word()}-"
                f"{rng.randint(1, 32)}] {name}.{self.word().title()}{self.word().title()}: "
                f"{self.said(3, 11)} id={rng.randint(1, 10**7)} took={rng.randint(1, 9000)}ms"
            )

        def syslog() -> str:
            return (
                f"Mar {rng.randint(1, 28):>2} {self.clock()} host{rng.randint(1, 40)} "
                f"{rng.choice(['sshd', 'kernel', 'systemd', 'cron'])}[{rng.randint(100, 60000)}]: "
                f"{self.said(3, 11)} from {ip()} port {rng.randint(1024, 65535)}"
            )

        def as_json() -> str:
            return json.dumps(
                {
                    "ts": self.when("T") + "Z",
                    "level": rng.choice(["info", "warn", "error"]),
                    "trace_id": rng.randbytes(16).hex(),
                    "msg": self.said(3, 11),
                    "duration_ms": rng.randint(1, 5000),
                }
            )

        def node() -> str:
            return (
                f"I{rng.randint(1, 12):02}{rng.randint(1, 28):02} {self.clock()}."
                f"{rng.randint(0, 10**6):06} {rng.randint(1, 40):>7} {self.word()}.go:"
                f'{rng.randint(10, 900)}] "{self.said(3, 11)}" pod="{self.word()}/{self.word()}-'
                f'{rng.randbytes(5).hex()}-{rng.randbytes(3).hex()}" err="{self.said(3, 11)}"'
            )

        return self.joined(rng.choice([access, service, syslog, as_json, node]), 5, 40)


KINDS = (
    "rulers one_character leaders base64 hex uuids numbers urls indentation emoji symbols "
    "random_letters decomposed logs"
).split()
