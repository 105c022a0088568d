"""Which kinds of things a fork has, and which it has not: `docs/forking.md` has the same list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from greenroom import Session, SessionPool

pytestmark = pytest.mark.slow

_CELLS = [
    """
import abc, collections, contextlib, dataclasses, decimal, enum, functools, json, logging, math, operator, os
import random, re, sys, threading, types, typing, warnings, weakref
import numpy as np, pandas as pd, matplotlib.pyplot as plt
from pathlib import Path
""",
    # Functions
    """
def twice(x, *, by: int = 2) -> int:
    "Docs."
    return by * scale * x
scale = 1
twice.note = ["attribute"]
def counter():
    count = 0
    def add():
        nonlocal count
        count += 1
        return count
    def read():
        return count
    return add, read
add, read = counter(); add()
def nested():
    def fact(n): return 1 if n < 2 else n * fact(n - 1)
    return fact
fact = nested()
square = lambda x: x * x
def logged(f):
    @functools.wraps(f)
    def call(*args):
        calls.append(f.__name__)
        return f(*args)
    return call
calls = []
@logged
def decorated(x): return x + 1
decorated(1)
cube = functools.partial(pow, exp=3)
@functools.lru_cache(maxsize=10)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
fib(5)
@functools.singledispatch
def kind(x): return "thing"
@kind.register
def _kind_of_int(x: int): return "int"
@contextlib.contextmanager
def context():
    yield "inside"
def generate():
    yield 1
async def coroutine(): return 5
compiled = compile("scale + 41", "<text>", "eval")
""",
    # Classes
    """
class Base:
    registry = []
    def __init_subclass__(cls, /, *, tag, **more):
        super().__init_subclass__(**more)
        Base.registry.append((cls.__name__, tag))
    def hello(self): return f"hello from {type(self).__name__}"
class Derived(Base, tag="t"):
    attribute = {"shared": 1}
    def __init__(self, x): self.x = x; self.__private = x
    def hello(self): return super().hello() + f" with {self.__private}"
    @property
    def doubled(self): return 2 * self.x
    @doubled.setter
    def doubled(self, value): self.x = value / 2
    @classmethod
    def make(cls): return cls(7)
    @staticmethod
    def static(): return "static"
    @functools.cached_property
    def slow(self): return [self.x]
    class Inner:
        pass
instance = Derived(3); instance.slow.append("cached")
inner = Derived.Inner()
class Slots:
    __slots__ = ("a", "__b")
    def __init__(self): self.a = 1; self.__b = 2
    def both(self): return self.a, self.__b
class MoreSlots(Slots):
    __slots__ = ("c",)
slots = MoreSlots(); slots.c = 3
@dataclasses.dataclass(order=True)
class Data:
    a: int
    b: list = dataclasses.field(default_factory=list, compare=False)
data = Data(1, [2])
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int = 1
frozen = Frozen(2)
class Color(enum.Enum):
    RED = 1
    BLUE = 2
    ALIAS = 1
    def nice(self): return self.name.lower()
class Planet(enum.Enum):
    EARTH = (5.97e24, 6.37e6)
    def __init__(self, mass, radius): self.mass = mass
class Flags(enum.Flag):
    A = enum.auto()
    B = enum.auto()
class Named(str, enum.Enum):
    X = "x"
color, both = Color.BLUE, Flags.A | Flags.B
Point = collections.namedtuple("Point", "x y")
class Typed(typing.NamedTuple):
    a: int
    b: str = "b"
    def sum(self): return f"{self.a}{self.b}"
point, typed = Point(1, 2), Typed(3)
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def __init__(self, x: T): self.x = x
box = Box[int](5)
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Circle(Shape):
    def area(self): return 3
circle = Circle()
class Meta(type):
    made = []
    def __new__(mcs, name, bases, names, *, needed):
        Meta.made.append(name)
        return super().__new__(mcs, name, bases, names)
    def __init__(cls, name, bases, names, *, needed): super().__init__(name, bases, names)
    def __len__(cls): return 4
class WithMeta(metaclass=Meta, needed=1): pass
class Fault(ValueError):
    def __init__(self, code): super().__init__(f"code {code}"); self.code = code
class Dict(dict):
    def __missing__(self, key): return key
odd = Dict(a=1); odd.extra = "extra"
class Hashed:
    def __init__(self, x): self.x = x
    def __hash__(self): return hash(normal(self.x))
    def __eq__(self, other): return normal(self.x) == normal(other.x)
def normal(x): return x.lower()
table = {Hashed("A"): "found"}
class Old: pass
old = Old()
class Old: pass
class Protocol(typing.Protocol):
    def run(self) -> int: ...
@functools.total_ordering
class Ordered:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
    def __lt__(self, other): return self.x < other.x
""",
    # Data
    """
array = np.arange(12).reshape(3, 4); view = array[1]; fortran = np.asfortranarray(np.arange(6).reshape(2, 3))
frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2024-01-01", None])}).set_index("a")
categories = pd.Categorical(["x", "y", "x"])
grouped = frame.groupby("b")
me = []; me.append(me)
shared = [1]; pair = {"first": shared, "second": shared}
keys = pair.keys()
names = globals()
deque, ordered, default = collections.deque([1], 5), collections.OrderedDict(a=1), collections.defaultdict(list, a=[1])
weak = weakref.ref(instance); weak_values = weakref.WeakValueDictionary(i=instance)
missing = dataclasses.MISSING
proxy = types.MappingProxyType(pair)
module = types.ModuleType("made"); module.x = 5
pattern, path, number, moment = re.compile("a+"), Path("x/y"), decimal.Decimal("1.1"), pd.Timestamp("2024-01-01")
generator = np.random.default_rng(7); generator.random()
bound = instance.hello; method = shared.append
random.seed(3); random.random(); np.random.seed(4); np.random.rand()
shell = get_ipython()
""",
    # Settings
    """
np.set_printoptions(precision=2); pd.set_option("display.max_rows", 7); plt.rcParams["figure.figsize"] = (2, 1)
decimal.getcontext().prec = 5; warnings.simplefilter("error", FutureWarning)
os.environ["ADDED"] = "yes"; os.environ.pop("TERM", None)
os.makedirs("sub/empty", exist_ok=True); os.chdir("sub"); sys.path.append("/mnt/data/library")
logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
logging.getLogger("mine").setLevel("ERROR")
from IPython.core.magic import register_line_magic
@register_line_magic
def shout(line): return line.upper()
""",
    "%config InteractiveShell.ast_node_interactivity = 'all'",
    "%alias hello echo hello from an alias",
    "%precision 3",
    """
plt.ioff()
figure, axes = plt.subplots(num=7); axes.plot([1, 2, 3]); axes.set_title("first")
other = plt.figure("second"); plt.plot([3, 2]); plt.figure(7)
None
""",
    # What stays behind
    """
stream = (n for n in range(3)); next(stream)
awaiting = coroutine()
import io, socket, subprocess, sqlite3, asyncio
file = open("/mnt/data/open.txt", "w"); memory_file = io.StringIO("text")
thread = threading.Thread(target=threading.Event().wait, daemon=True); thread.start()
lock, event = threading.Lock(), threading.Event()
wire = socket.socket()
process = subprocess.Popen(["sleep", "1000"])
database = sqlite3.connect(":memory:")
deep = {"list": [1, {"x": (file, 2)}]}
holder = Derived(1); holder.lock = lock
def uses(): return stream
class Refuses:
    def __getstate__(self): raise RuntimeError("never")
refuses = Refuses()
class Broken(Exception):
    def __init__(self, a, b): super().__init__(a)
broken = [Broken(1, 2)]
chain = None
for _n in range(100_000): chain = [chain]
def closed(lock=lock):
    return lock
wanted = asyncio.get_running_loop().create_future()
error = None
try: 1/0
except Exception as caught: error = caught
""",
]

SAME = [
    "twice(3), twice.__doc__, twice.note, twice.__annotations__, twice.__kwdefaults__, twice.__module__",
    "twice.__globals__ is globals()",
    "(scale := 10, twice(1), globals().update(scale=1))",
    "add(), read(), add(), read()",
    "fact(5), square(3), cube(2), fib(10), kind(1), kind('x'), eval(compiled)",
    "decorated(2), calls, decorated.__wrapped__(1), decorated.__name__",
    "import inspect; inspect.getsource(twice)",
    "with context() as value: print(value)",
    "list(generate()), await coroutine()",
    "instance.hello(), instance.doubled, Derived.make().x, Derived.static(), instance.slow, vars(instance)",
    "instance.__class__ is Derived, isinstance(instance, Base), Base.registry, Derived.attribute, Derived.__mro__",
    "class Again(Base, tag='new'): pass\nBase.registry, Again().hello()",
    "type(inner) is Derived.Inner, Derived.Inner.__qualname__",
    "slots.both(), slots.c, hasattr(slots, '__dict__'), MoreSlots.__slots__",
    "data, data < Data(2), Data(5), dataclasses.asdict(data), dataclasses.replace(data, a=9), Data.__match_args__",
    "[f.default is dataclasses.MISSING for f in dataclasses.fields(Data)], missing is dataclasses.MISSING",
    "frozen, hash(frozen) == hash(Frozen(2)), frozen == Frozen(2)",
    "frozen.a = 3",
    "color is Color.BLUE, Color(1), Color['RED'].nice(), list(Color), Color.ALIAS is Color.RED, len(Color)",
    "Planet.EARTH.mass, both, Flags.A in both, ~Flags.A, Named.X == 'x', Named('x')",
    "Color(3)",
    "point, point._replace(x=3), typed, typed.sum(), Typed._field_defaults, Typed(1)._asdict()",
    "box.x, Box[str], Box.__parameters__ == (T,), T, Box.__orig_bases__",
    "circle.area(), isinstance(circle, Shape)",
    "Shape()",
    "len(WithMeta), Meta.made, type(WithMeta)",
    "raise Fault(5)",
    "odd, odd['nothing'], odd.extra",
    "table[Hashed('a')]",
    "type(old) is Old, type(old).__name__",
    "Ordered(1) <= Ordered(2), Protocol._is_protocol",
    "array, view, array.flags.writeable, fortran.flags.f_contiguous, fortran",
    "frame, categories, grouped.size(), frame.dtypes",
    "me[0] is me, pair['first'] is pair['second'] is shared, names is globals()",
    "pair.update(third=3); list(keys), dict(proxy)['first'] is shared",
    "deque, deque.maxlen, ordered, default, default['new']",
    "weak() is instance, weak_values['i'] is instance, bound(), bound.__self__ is instance",
    "method('appended'); shared",
    "module.x, math.pi, json is sys.modules['json'], np.pi, pd.__name__",
    "pattern, path, number, moment, memory_file.read(), shell is get_ipython()",
    "random.random(), np.random.rand(), generator.random(), random.getrandbits(64)",
    "np.array([1/3]), pd.get_option('display.max_rows'), plt.rcParams['figure.figsize'], decimal.Decimal(1) / 3",
    "warnings.warn('now an error', FutureWarning)",
    "os.getcwd(), os.environ['ADDED'], 'TERM' in os.environ, sys.path[-1], os.listdir('.')",
    "logging.info('info'); logging.debug('debug'); logging.getLogger('mine').warning('no'); logging.warning('yes')",
    "%shout loud",
    "1\n2\n'three'",
    "%hello",
    "3.14159265",
    "plt.get_fignums(), plt.gcf() is figure, plt.gca() is axes, plt.gca().get_title(), plt.isinteractive()",
    "plt.figure('second') is other, plt.figure(9).number, plt.get_fignums()",
    "plt.close(9); figure",
    "plt.show()",
    "Out[max(Out)], _, In[-2], len(In), sorted(Out), _i, _ii",
    "uses.__name__",
    "%whos str",
    "[name for name in globals() if not name.startswith('_')][:60]",
    "def fails(): return 1 / 0\nfails()",
    "twice('a', by='b')",
]  # fmt: skip

LEFT_OUT = {
    "stream": "a generator",
    "awaiting": "a coroutine",
    "file": "an open file",
    "thread": "a thread",
    "lock": "a lock",
    "event": "a lock",
    "wire": "a socket",
    "process": "a process",
    "database": "Connection",
    "deep": "holds an open file",
    "holder": "holds a lock",
    "refuses": "RuntimeError: never",
    "broken": "TypeError",
    "chain": "too deeply",
    "closed": "holds a lock",
    "wanted": "a task",
}


@pytest.fixture(scope="module")
def session(pool: SessionPool) -> Iterator[Session]:
    with pool.session() as session:
        for cell in _CELLS:
            session.execute(cell).raise_for_error()
        yield session


@pytest.fixture(scope="module")
def fork(session: Session) -> Iterator[Session]:
    (fork,) = session.fork()
    with fork:
        yield fork


def test_objects_that_cannot_be_copied_are_left_out_and_named(session: Session) -> None:
    (fork,) = session.fork()
    reasons = {part.name: part.reason for part in fork.not_carried}
    assert reasons.keys() == LEFT_OUT.keys(), reasons
    for name, reason in LEFT_OUT.items():
        assert reason in reasons[name]
    first = fork.execute("sorted({'stream', 'uses', 'deep', 'holder'} & globals().keys())")
    assert first.result == "['uses']"
    assert first.not_carried == fork.not_carried
    assert "stream (it is a generator)" in first.text_for_model()
    assert fork.execute("None").not_carried == ()
    fork.delete()


@pytest.mark.parametrize("cell", SAME)
def test_a_cell_gives_the_same_result(session: Session, fork: Session, cell: str) -> None:
    mine, its = session.execute(cell), fork.execute(cell)
    assert (its.stdout, its.stderr, its.result) == (mine.stdout, mine.stderr, mine.result)
    assert [output.data.keys() for output in its.outputs] == [output.data.keys() for output in mine.outputs]
    assert [output.text for output in its.outputs] == [output.text for output in mine.outputs]
    assert (its.error and (its.error.name, its.error.value, its.error.traceback)) == (
        mine.error and (mine.error.name, mine.error.value, mine.error.traceback)
    )
