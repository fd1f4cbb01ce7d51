"""Any sequence of commands, device losses, foreign deletions and failing operations: the guard holds after every single
operation, and once failures end the kernel holds exactly what is wanted."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.fib_shell import UNDERLAY, Shell

from gateway.routing.guard import GUARD_METRIC
from gateway.routing.model import (
    Command,
    ConnectionAdded,
    ConnectionDown,
    ConnectionGone,
    ConnectionUp,
    FibSettings,
    Forget,
    InterfaceChanged,
    InterfaceGone,
    Liveness,
    OpError,
    Prefix,
    RemoveRoute,
    Resolution,
    Resync,
    RouteKind,
    SetProtected,
    SetRoute,
    SetThrows,
    Sweep,
    Target,
    ViaConnection,
    ViaNextHop,
    ViaTiers,
)

NAMES = ("edge", "second", "third")
PREFIXES: tuple[Prefix, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.5.0/24",
        "172.16.0.0/12",
        "172.16.9.0/24",
        "203.0.113.7/32",
        "2001:db8::/32",
        "2001:db8:5::/48",
    )
)
HOPS = tuple(ip_address(text) for text in ("10.0.1.1", "10.0.1.9", "fd00::1"))
GATEWAYS = {4: ip_address("10.0.1.1"), 6: ip_address("fe80::1")}

names = st.sampled_from(NAMES)
prefixes = st.sampled_from(PREFIXES)


def tiers(of: st.SearchStrategy[ViaConnection] | st.SearchStrategy[ViaNextHop]) -> st.SearchStrategy[Target]:
    """One or two members, and perhaps a backup; each once."""
    members = st.lists(of, min_size=2, max_size=3, unique=True)
    return st.builds(
        lambda some, cut: ViaTiers(tuple(filter(None, (tuple(some[:cut]), tuple(some[cut:]))))),
        members,
        st.integers(1, 3),
    )


connections = names.map(ViaConnection)
hops = st.sampled_from(HOPS).map(ViaNextHop)
targets: st.SearchStrategy[Target] = st.one_of(connections, hops, tiers(connections), tiers(hops))
sources = st.sampled_from(("bgp", "static"))


class FibMachine(RuleBasedStateMachine):
    """The oracle keeps its own picture of the intent and asks the kernel model where packets go."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell(settings=FibSettings(batch=3))
        self.shell.watch = self.nothing_opened
        self.devices: dict[str, int] = {}
        self.configured: set[str] = set()
        self.up: set[str] = set()
        self.failing: set[ViaConnection | ViaNextHop] = set()
        self.routes: dict[Prefix, dict[str, Target]] = {}
        self.protected: frozenset[Prefix] = frozenset()
        self.exempt: frozenset[Prefix] = frozenset()
        self.closed: set[Prefix] = set()
        self.keeping = False
        self.kept: set[Prefix] = set()
        self.next_index = 10
        self.seeded = 0

    @initialize(protected=st.frozensets(prefixes, max_size=4), keeping=st.booleans())
    def start(self, protected: frozenset[Prefix], keeping: bool) -> None:
        self.keeping = keeping
        for hop in HOPS:
            self.shell.resolver[hop] = Resolution(GATEWAYS[hop.version], UNDERLAY)
        self.protect(protected)

    def tell(self, *commands: Command) -> None:
        self.shell.tell(*commands)
        if self.keeping:
            led = {prefix for prefix in self.routes if self.destination(prefix) not in (None, UNDERLAY)}
            self.kept |= {prefix for prefix in led if not self.must_be_closed(prefix)}
        guarded = {route.prefix for route in self.shell.kernel.routes.values() if route.metric == GUARD_METRIC}
        if self.protected <= guarded:  # the guard's own operations may have failed; from here on it has to hold
            self.closed |= {prefix for prefix in PREFIXES if self.stays_closed(prefix) and self.is_closed(prefix)}

    # What the operator and the world do.

    @rule(name=names)
    def add(self, name: str) -> None:
        if name not in self.devices:
            self.devices[name] = self.next_index
            self.shell.kernel.interfaces.add(self.next_index)
            self.next_index += 1
        self.configured.add(name)
        self.tell(ConnectionAdded(name, self.devices[name]))

    @rule(name=names)
    def connect(self, name: str) -> None:
        self.configured.add(name)
        self.up.add(name)
        self.tell(ConnectionUp(name))

    @rule(name=names)
    def disconnect(self, name: str) -> None:
        self.configured.add(name)
        self.up.discard(name)
        self.tell(ConnectionDown(name))

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.failing.discard(ViaConnection(name))
        self.configured.discard(name)
        self.up.discard(name)
        self.tell(ConnectionGone(name))
        self.lose(name)

    @rule(name=names)
    def lose(self, name: str) -> None:
        index = self.devices.pop(name, None)
        if index is not None:
            guarded = {prefix for prefix in self.routes if self.has_blackhole(prefix) and self.is_closed(prefix)}
            self.shell.kernel.delete_interface(index)
            self.nothing_opened()
            assert not {prefix for prefix in guarded if not self.is_closed(prefix) and not self.leads_out(prefix)}
            self.tell(InterfaceGone(index))

    @rule(way=st.sampled_from([*map(ViaConnection, NAMES), *map(ViaNextHop, HOPS)]), works=st.booleans())
    def check(self, way: ViaConnection | ViaNextHop, works: bool) -> None:
        self.failing = self.failing - {way} if works else self.failing | {way}
        self.tell(Liveness(way, works))

    @rule(prefix=prefixes, via=targets, source=sources)
    def route(self, prefix: Prefix, via: Target, source: str) -> None:
        self.routes.setdefault(prefix, {})[source] = via
        self.tell(SetRoute(prefix, via, source, 1 if source == "static" else 20, self.keeping))

    @rule(some=st.frozensets(prefixes, max_size=4))
    def forget(self, some: frozenset[Prefix]) -> None:
        self.kept -= some
        self.closed = {prefix for prefix in self.closed if self.stays_closed(prefix)}
        self.tell(Forget(tuple(some)))

    @rule(prefix=prefixes, source=sources)
    def unroute(self, prefix: Prefix, source: str) -> None:
        self.routes.get(prefix, {}).pop(source, None)
        self.tell(RemoveRoute(prefix, source))

    @rule(protected=st.frozensets(prefixes, max_size=4))
    def protect(self, protected: frozenset[Prefix]) -> None:
        self.protected = protected
        self.closed = {prefix for prefix in self.closed if self.stays_closed(prefix)}
        self.tell(SetProtected(protected))

    @rule(connected=st.frozensets(prefixes, max_size=2))
    def exempt_connected(self, connected: frozenset[Prefix]) -> None:
        self.exempt = connected
        self.closed = {prefix for prefix in self.closed if self.stays_closed(prefix)}
        self.tell(SetThrows(connected))

    @rule(hop=st.sampled_from(HOPS), reachable=st.booleans())
    def underlay(self, hop: object, reachable: bool) -> None:
        self.shell.resolver[hop] = Resolution(GATEWAYS[hop.version], UNDERLAY) if reachable else None  # type: ignore
        self.tell(InterfaceChanged())

    @rule(data=st.data())
    def somebody_deletes_our_routes(self, data: st.DataObject) -> None:
        keys = [key for key, route in self.shell.kernel.routes.items() if route.kind is RouteKind.UNICAST]
        for key in data.draw(st.lists(st.sampled_from(keys), max_size=3)) if keys else []:
            self.shell.kernel.routes.pop(key, None)
        self.nothing_opened()
        self.tell(Resync())

    @rule(period=st.integers(0, 4))
    def operations_fail(self, period: int) -> None:
        """Every `period`-th operation fails; 0: none."""
        self.seeded = 0

        def fault(op: object) -> OpError | None:
            self.seeded += 1
            return OpError(12, "Cannot allocate memory") if period and self.seeded % period == 0 else None

        self.shell.faults = fault

    @rule()
    def retry(self) -> None:
        if self.shell.fib.next_deadline() is not None:
            self.shell.pass_time()

    @rule()
    def converge(self) -> None:
        """Failures end: the kernel does what is wanted and holds nothing else."""
        self.shell.faults = lambda op: None
        self.tell(Sweep(), Resync())
        for _ in range(3):
            if self.shell.fib.next_deadline() is not None:
                self.shell.pass_time()
        kernel = self.shell.kernel
        assert self.shell.fib.next_deadline() is None
        unicast = {
            route.prefix: kernel.lookup_route(route)
            for route in kernel.routes.values()
            if route.kind is RouteKind.UNICAST
        }
        assert unicast == self.expected()
        tunnelled = {prefix for prefix, way in unicast.items() if way != UNDERLAY and not self.must_be_closed(prefix)}
        blackholes = {route.prefix for route in kernel.routes.values() if route.metric == GUARD_METRIC}
        assert blackholes == self.protected | tunnelled | self.kept
        assert set(self.shell.fib.kept) == self.kept
        assert set(kernel.groups) == {route.group for route in kernel.routes.values() if route.group}
        status = self.shell.fib.status()
        assert (status.installed, status.guard_missing) == (len(unicast), 0)

    # The oracle.

    def expected(self) -> dict[Prefix, object]:
        found = {prefix: self.destination(prefix) for prefix in self.routes}
        return {prefix: destination for prefix, destination in found.items() if destination is not None}

    def destination(self, prefix: Prefix) -> object:
        fallback = None
        for unwanted in (self.failing, set()):  # what fails is used where nothing else is
            for source in ("static", "bgp"):
                target = self.routes[prefix].get(source)
                for tier in target.tiers if isinstance(target, ViaTiers) else ((target,),) if target else ():
                    ways = {self.way(member, prefix) for member in tier if member not in unwanted}
                    if carrying := frozenset(ways) - {None, "blackhole"}:
                        return carrying if len(carrying) > 1 else next(iter(carrying))
                    if any(self.way(member, prefix) for member in tier):
                        fallback = "blackhole"
        return fallback

    def way(self, target: ViaConnection | ViaNextHop, prefix: Prefix) -> object:
        if isinstance(target, ViaNextHop):
            return UNDERLAY if self.may_use(target, prefix) else None
        if target.name in self.up and target.name in self.devices:
            return self.devices[target.name]
        return "blackhole" if target.name in self.configured else None

    def may_use(self, target: ViaNextHop, prefix: Prefix) -> bool:
        fits = target.address.version == prefix.version and self.shell.resolver[target.address] is not None
        return fits and not self.must_be_closed(prefix) and prefix not in self.kept

    def stays_closed(self, prefix: Prefix) -> bool:
        return self.must_be_closed(prefix) or (prefix in self.kept and prefix not in self.excepted())

    def must_be_closed(self, prefix: Prefix) -> bool:
        same_family = (cover for cover in self.protected | self.excepted() if cover.version == prefix.version)
        covers = [cover for cover in same_family if prefix.subnet_of(cover)]  # type: ignore[arg-type]
        longest = max(covers, key=lambda cover: cover.prefixlen, default=None)
        return longest in self.protected

    def excepted(self) -> set[Prefix]:
        """An IPv6 link inside a protected prefix with a name is no exception."""
        named = [prefix for prefix in self.protected if prefix.version == 6 and prefix.prefixlen]
        return {link for link in self.exempt if not any(link.version == 6 and link.subnet_of(p) for p in named)}  # type: ignore[arg-type]

    def has_blackhole(self, prefix: Prefix) -> bool:
        return (prefix, GUARD_METRIC) in self.shell.kernel.routes

    def leads_out(self, prefix: Prefix) -> bool:
        """Exempt itself, or routed to the underlay (a blackhole that is no longer wanted may not be gone yet)."""
        return prefix in self.excepted() or self.destination(prefix) == UNDERLAY

    def is_closed(self, prefix: Prefix) -> bool:
        return self.shell.kernel.lookup(prefix) not in ("main", UNDERLAY)

    @invariant()
    def nothing_opened(self) -> None:
        leaking = {str(prefix) for prefix in self.closed if not self.is_closed(prefix)}
        assert not leaking, f"leaks: {leaking}"

    @invariant()
    def what_differs_is_dirty_and_nothing_else(self) -> None:
        fib = self.shell.fib
        if fib.synchronised:
            keys = fib._ledger._desired.keys() | set(fib._ledger.mirror)
            differing = {
                key
                for key in keys - fib._ledger.stale
                if fib._ledger.mirror.entry(key) != fib._ledger._desired.get(key)
            }
            assert fib._ledger.dirty.keys() == differing

    @invariant()
    def counted_as_if_every_route_were_looked_at(self) -> None:
        fib = self.shell.fib
        status, states = fib.status(), [fib.state(prefix) for prefix, sources in self.routes.items() if sources]
        counted = (status.desired, status.installed, status.failed)
        assert counted == (len(states), sum(one.installed for one in states), sum(bool(one.error) for one in states))
        missing = [route for route in fib._ledger.guarding.values() if fib._ledger.mirror.entry(route.key) != route]
        assert sorted(map(str, fib._ledger.guard_missing)) == sorted(map(str, missing))
        assert fib.guard_complete == (fib.synchronised and not missing)


TestFibMachine = FibMachine.TestCase
TestFibMachine.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
