"""Replicas behind a DNS name: A and AAAA records, or SRV records, asked for again and again."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.SRV import SRV

from weighbridge.address import HostPort, parse_host_port
from weighbridge.config.discovery import DnsSource
from weighbridge.discovery.source import Found, SourceError, from_template


class DnsNames:
    """The addresses of one name. A name without any address is a failure, not an empty list."""

    def __init__(self, settings: DnsSource) -> None:
        self._settings = settings
        self._resolver: dns.asyncresolver.Resolver | None = None
        # Names and the kinds of records that they have had.
        self._had: set[tuple[str, dns.rdatatype.RdataType]] = set()
        self.name = settings.label

    async def lists(self) -> AsyncGenerator[tuple[Found, ...], None]:
        """The addresses, each `interval_seconds`."""
        while True:
            yield await self._look()
            await asyncio.sleep(self._settings.interval_seconds)

    async def _look(self) -> tuple[Found, ...]:
        try:
            if self._resolver is None:
                self._resolver = resolver(self._settings)
            if self._settings.record == "srv":
                addresses = await self._services(self._resolver)
            else:
                hosts = await self._hosts(self._resolver, self._settings.name)
                addresses = [HostPort(host, self._settings.port or 0) for host in hosts]
        except (dns.exception.DNSException, OSError) as error:
            raise SourceError(f"{self._settings.name}: {error}") from None
        return found(self._settings, addresses)

    async def _services(self, asked: dns.asyncresolver.Resolver) -> list[HostPort]:
        answer = await asked.resolve(self._settings.name, dns.rdatatype.SRV)
        records = [record for record in answer if isinstance(record, SRV)]
        return [
            HostPort(host, record.port)
            for record in records
            for host in await self._hosts(asked, record.target.to_text(omit_final_dot=True))
        ]

    async def _hosts(self, asked: dns.asyncresolver.Resolver, name: str) -> list[str]:
        kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
        # Side by side: a server that drops one of the questions holds up the other no longer.
        answers = await asyncio.gather(
            *(asked.resolve(name, kind, raise_on_no_answer=False) for kind in kinds),
            return_exceptions=True,
        )
        hosts: list[str] = []
        failures: dict[dns.rdatatype.RdataType, BaseException] = {}
        for kind, answer in zip(kinds, answers, strict=True):
            if isinstance(answer, BaseException):
                failures[kind] = answer
            elif answer.rrset is not None:
                hosts += [record.to_text() for record in answer.rrset]
                self._had.add((name, kind))
        for kind, failure in failures.items():
            # A kind of record that never was is not missed; one that was would leave a part.
            if not hosts or (name, kind) in self._had:
                raise failure
        if not hosts:
            raise SourceError(f"{name} has no address")
        return hosts


def resolver(settings: DnsSource) -> dns.asyncresolver.Resolver:
    """Asks the name server of the settings, else those of the machine."""
    server = settings.server
    made = dns.asyncresolver.Resolver(configure=server is None)
    if server is not None:
        where = parse_host_port(server)
        made.nameservers = [where.host]
        made.port = where.port
    made.lifetime = settings.timeout_seconds
    return made


def found(settings: DnsSource, addresses: Iterable[HostPort]) -> tuple[Found, ...]:
    """A list in an order of its own: name servers turn their answers around."""
    unique = sorted(set(addresses), key=str)
    return tuple(from_template(settings, address) for address in unique)
