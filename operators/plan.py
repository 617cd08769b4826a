"""From a declaration to a plan: which rows are kept, and which steps run over each kind of them.

Equal sub-expressions are computed once: a step's key is the fingerprint of its expression. Kinds of
rows (domains) run in an order in which whatever a step asks of another kind is already there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from operators import aggregates as agg
from operators.expr import (
    Across,
    Column,
    Constant,
    Elapsed,
    Expr,
    Function,
    GridCoverage,
    OffGrid,
    SeriesSeconds,
    Shift,
    Spectral,
    Windowed,
    ZeroCrossings,
    common_home,
)
from operators.feature_set import FeatureSet, SetColumn
from operators.instants import AcrossSeries, Hop, Instants, digest
from operators.scope import WindowSpec
from operators.steps import (
    AcrossSeriesOf,
    Apply,
    Coverage,
    Crossings,
    Fill,
    Finish,
    FrameSums,
    Grid,
    LookBack,
    PastGrid,
    PowerDensity,
    ReadColumn,
    ReadSpectrum,
    SecondsSince,
    SeriesDuration,
    Slide,
    Step,
)
from operators.streams import OneSeries, Stream
from operators.windows import Rows, Span, Whole


@dataclass(slots=True)
class Domain:
    """One kind of rows: a stream's, one series' of it, hop windows, instants across series.

    Attributes:
        index: its number in the plan.
        source: number of the kind that it is made from; its own for streams.
        steps: what is computed over its rows, in order.
        stored: values kept for windows, by fingerprint, with the formula for people.
        keep_rows, keep_span_ns: how far back anything may look.
        asks: kinds whose recent rows its steps look at.
        watched: whether another kind looks at its rows.
    """

    index: int
    instants: Instants
    source: int
    steps: list[Step] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)
    keep_rows: int = 1
    keep_span_ns: int = 0
    asks: set[int] = field(default_factory=set)
    watched: bool = False

    @property
    def by_series(self) -> bool:
        """Whether its runs are series, not entities."""
        return self.instants.series is not None


@dataclass(slots=True)
class Plan:
    """How a feature set is computed.

    Attributes:
        domains: kinds of rows, by number.
        order: their numbers in the order in which they run.
        output: the kind at whose instants vectors are emitted.
        features, quality: step keys by name.
        coverage: key of the coverage.
    """

    feature_set: FeatureSet
    domains: list[Domain]
    order: list[int]
    output: int
    features: dict[str, str]
    quality: dict[str, str]
    coverage: str

    @property
    def streams(self) -> dict[str, int]:
        """Number of the kind that each input stream is."""
        return {d.instants.name: d.index for d in self.domains if isinstance(d.instants, Stream)}


def compile_plan(feature_set: FeatureSet) -> Plan:
    """The plan of a feature set.

    Raises:
        TypeError: when an expression cannot be evaluated where it is used.
    """
    compiler = _Compiler(feature_set)
    for stream in feature_set.streams:
        compiler.domain(stream)
    output = compiler.domain(feature_set.instants)
    features = {k: compiler.at(e, output) for k, e in feature_set.feature_exprs.items()}
    quality = {k: compiler.at(e, output) for k, e in feature_set.quality.items()}
    coverage = compiler.at(feature_set.coverage_expr, output)
    _share_moments(compiler.domains)
    order = _dependency_order(compiler.domains)
    return Plan(feature_set, compiler.domains, order, output.index, features, quality, coverage)


def _dependency_order(domains: list[Domain]) -> list[int]:
    order: list[int] = []

    def visit(index: int) -> None:
        if index in order:
            return
        domain = domains[index]
        # One series is cut from the stream's rows, not from what is computed over them.
        source = index if isinstance(domain.instants, OneSeries) else domain.source
        for other in sorted({source, *domain.asks} - {index}):
            visit(other)
        order.append(index)

    for domain in domains:
        visit(domain.index)
    return order


def _share_moments(domains: list[Domain]) -> None:
    """Reads mean and variance off the higher moments where both are computed; the bits agree."""
    for domain in domains:
        slides = {step.key: step for step in domain.steps if isinstance(step, Slide)}
        places = {
            (s.source, s.columns, s.window, s.family.name, s.parameter): s.key
            for s in slides.values()
        }
        shared = {}
        for s in slides.values():
            wider = (s.source, s.columns, s.window, s.family.covers, s.parameter)
            if s.family.covers and wider in places:
                shared[s.key] = places[wider]
        if not shared:
            continue
        first = {key: step for step in domain.steps if (key := step.key) in shared.values()}
        steps: list[Step] = []
        for step in domain.steps:
            if step.key in shared:
                wider_step = first[shared[step.key]]
                if wider_step not in steps:
                    steps.append(wider_step)
            elif isinstance(step, Finish) and step.sums in shared:
                steps.append(
                    Finish(
                        step.key,
                        shared[step.sums],
                        step.aggregate,
                        step.parameter,
                        step.min_samples,
                    )
                )
            elif step not in steps:
                steps.append(step)
        domain.steps[:] = steps


class _Compiler:
    """Lays out domains and their steps while it walks the expressions."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self.feature_set = feature_set
        self.domains: list[Domain] = []
        self.by_fingerprint: dict[str, Domain] = {}

    def domain(self, instants: Instants) -> Domain:
        """The domain of some instants, made with those it is made from."""
        found = self.by_fingerprint.get(instants.fingerprint)
        if found is not None:
            return found
        source = None
        if isinstance(instants, (Hop, AcrossSeries, OneSeries)):
            source = self.domain(instants.source)
        index = len(self.domains)
        made = Domain(index, instants, index if source is None else source.index)
        if isinstance(instants, Hop) and source is not None:
            source.watched = True
            source.keep_span_ns = max(source.keep_span_ns, instants.length_ns)
        self.domains.append(made)
        self.by_fingerprint[instants.fingerprint] = made
        return made

    def add(self, domain: Domain, step: Step) -> str:
        """Adds a step, once."""
        if all(known.key != step.key for known in domain.steps):
            domain.steps.append(step)
        return step.key

    def stored(self, expr: Expr, domain: Domain, asker: Domain, window: WindowSpec) -> str:
        """Keeps an expression's values for a window; returns the name of the column."""
        key = self.at(expr, domain)
        domain.stored[key] = expr.formula
        self.look(domain, asker, window)
        return key

    def look(self, domain: Domain, asker: Domain, window: WindowSpec) -> None:
        """Notes that one domain looks back at another one's rows."""
        domain.keep_rows = max(domain.keep_rows, window.rows)
        domain.keep_span_ns = max(domain.keep_span_ns, window.span_ns)
        if domain is not asker:
            asker.asks.add(domain.index)
            domain.watched = True
            if domain.by_series and not asker.by_series:
                where = f"feature set `{self.feature_set.name}`"
                msg = (
                    f"{where}: `{asker.instants.name}` has no series, so it must read one series "
                    f"or go across them, got all of `{domain.instants.name}`"
                )
                raise TypeError(msg)

    def at(self, expr: Expr, domain: Domain) -> str:
        """The key of an expression evaluated at a domain's rows."""
        if isinstance(expr, Column):
            home = self.domain(expr.at)
            if home is not domain:
                return self._last(expr, home, domain)
            if isinstance(expr, SetColumn):
                return self.at(expr.expr, domain)
            return self.add(domain, ReadColumn(expr.fingerprint, expr.name))
        if isinstance(expr, Constant):
            return self.add(domain, Fill(expr.fingerprint, expr.value))
        if isinstance(expr, Function):
            args = tuple(self.at(arg, domain) for arg in expr.args)
            return self.add(domain, Apply(expr.fingerprint, expr.function, args))
        if isinstance(expr, Shift):
            home = self._home(expr.arg, domain)
            column = self.stored(expr.arg, home, domain, WindowSpec(rows=expr.rows + 1))
            key = self._key(expr, home, domain)
            return self.add(domain, LookBack(key, home.index, column, expr.rows))
        if isinstance(expr, Windowed):
            return self._windowed(expr, domain)
        return self._other(expr, domain)

    def _home(self, expr: Expr, domain: Domain) -> Domain:
        home = expr.home
        return domain if home is None else self.domain(home)

    @staticmethod
    def _key(expr: Expr, home: Domain, domain: Domain) -> str:
        return expr.fingerprint if home is domain else digest("as of", expr.fingerprint)

    def _last(self, expr: Expr, home: Domain, domain: Domain) -> str:
        column = self.stored(expr, home, domain, WindowSpec(rows=1))
        return self.add(domain, LookBack(self._key(expr, home, domain), home.index, column, 0))

    def _windowed(self, expr: Windowed, domain: Domain) -> str:
        if isinstance(expr.window, Whole):
            if isinstance(domain.instants, Stream):
                return self._of_message(expr, domain)
            home, window = self._hop(domain)
        else:
            homes = common_home(expr.args)
            home = domain if homes is None else self.domain(homes)
            if isinstance(expr.window, Rows):
                window = WindowSpec(rows=expr.window.rows)
            else:
                assert isinstance(expr.window, Span)
                window = WindowSpec(span_ns=expr.window.span_ns)
        columns = tuple(self.stored(arg, home, domain, window) for arg in expr.args)
        family = expr.aggregate.family
        parameter = expr.parameter
        sums = digest("sums", family.name, parameter, window, home.index, *columns)
        self.add(domain, Slide(sums, home.index, columns, window, family, parameter))
        key = self._key(expr, home, domain)
        return self.add(domain, Finish(key, sums, expr.aggregate, parameter, expr.min_samples))

    def _hop(self, domain: Domain) -> tuple[Domain, WindowSpec]:
        hop = domain.instants
        assert isinstance(hop, Hop)
        window = WindowSpec(span_ns=hop.length_ns, closed_right=int(hop.closed == "right"))
        return self.domains[domain.source], window

    def _of_message(self, expr: Windowed, domain: Domain) -> str:
        samples = self.at(expr.args[0], domain)
        family = agg.SHAPE if expr.aggregate.family is agg.LEVEL else expr.aggregate.family
        sums = self.add(domain, FrameSums(digest("frame", family.name, samples), samples, family))
        step = Finish(expr.fingerprint, sums, expr.aggregate, expr.parameter, expr.min_samples)
        return self.add(domain, step)

    def _other(self, expr: Expr, domain: Domain) -> str:
        key = expr.fingerprint
        if isinstance(expr, Elapsed):
            home = self.domain(expr.at)
            self.look(home, domain, WindowSpec(rows=expr.rows + 1))
            key = self._key(expr, home, domain)
            return self.add(domain, SecondsSince(key, home.index, expr.rows))
        if isinstance(expr, SeriesSeconds):
            return self.add(domain, SeriesDuration(key))
        if isinstance(expr, OffGrid):
            return self.add(domain, PastGrid(key))
        if isinstance(expr, Across):
            source = self.domains[domain.source]
            if expr.how == "corr":
                column = self.stored(expr.arg, source, source, WindowSpec(rows=expr.rows))
            else:
                column = self.at(expr.arg, source)
            step = AcrossSeriesOf(key, source.index, column, expr.how, expr.rows)
            return self.add(domain, step)
        if isinstance(expr, ZeroCrossings):
            return self._crossings(expr, domain)
        if isinstance(expr, GridCoverage):
            return self.add(domain, Coverage(key, self._frames(expr.arg, domain)))
        assert isinstance(expr, Spectral)
        return self._spectral(expr, domain)

    def _crossings(self, expr: ZeroCrossings, domain: Domain) -> str:
        if isinstance(domain.instants, Stream):
            samples = self.at(expr.arg, domain)
            return self.add(domain, Crossings(expr.fingerprint, domain.index, samples, None))
        home, window = self._hop(domain)
        column = self.stored(expr.arg, home, domain, window)
        return self.add(domain, Crossings(expr.fingerprint, home.index, column, window))

    def _frames(self, arg: Expr, domain: Domain) -> str:
        """Key of frames of samples: a message's own, or a hop window's on its grid."""
        if isinstance(domain.instants, Stream):
            return self.at(arg, domain)
        home, window = self._hop(domain)
        stream = home.instants
        assert isinstance(stream, Stream)
        assert stream.rate_hz is not None
        length = round(window.span_ns * stream.rate_hz / 1e9)
        period_ns = 1e9 / stream.rate_hz
        column = self.stored(arg, home, domain, window)
        step = Grid(
            digest("grid", column, window, length), home.index, column, window, length, period_ns,
            stream.jitter * period_ns,
        )  # fmt: skip
        return self.add(domain, step)

    def _spectral(self, expr: Spectral, domain: Domain) -> str:
        frames = self._frames(expr.arg, domain)
        stream = domain.instants
        rate, rate_hz = "", 0.0
        if isinstance(stream, Stream):
            assert stream.rate_field is not None
            rate = self.at(stream.col(stream.rate_field), domain)
        else:
            source = self.domains[domain.source].instants
            assert isinstance(source, Stream)
            rate_hz = source.rate_hz or 0.0
        density = digest("density", frames, rate, rate_hz)
        self.add(domain, PowerDensity(density, frames, rate, rate_hz))
        step = ReadSpectrum(
            expr.fingerprint, density, expr.measure.kernel, expr.low, expr.high, expr.of_nyquist
        )
        return self.add(domain, step)
