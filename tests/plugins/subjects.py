"""Functions to be precompiled, as source texts of modules, and what may change in each of them.

Everything is made of matrix products, which need no C++ compiler. `knobs` and `others` are not traced when only their
names are read, so that no digest of a source gives a change of theirs away.
"""

from __future__ import annotations

#: File name -> text.
FILES: dict[str, str] = {
    "knobs": """
import others
CLOSED_OVER = 2
ATTRIBUTE = 2
DEFAULT = 2
GLOBAL = 2
FUNCTION = others.first
CLOSED_FUNCTION = others.first
METHOD = others.first_method
SUBMODULE = others.First
BUILTIN = "mm"
TRAINING = False
""",
    "others": """
import torch
def first(x): return torch.mm(x, x)
def second(x): return torch.mm(x, x.t())
def third(x): return torch.mm(x.t(), x)
def first_method(self, x): return torch.mm(x, x)
def second_method(self, x): return torch.mm(x, x.t())
class First(torch.nn.Module):
    def forward(self, x): return torch.mm(x, x)
class Second(torch.nn.Module):
    def forward(self, x): return torch.mm(x, x.t())
""",
    "inlined": """
import torch
def helper(x):
    return torch.mm(x, x)
""",
    "subject_source": """
import torch
def target(x):
    return torch.mm(x, x)
""",
    "subject_helper": """
import inlined
def target(x):
    return inlined.helper(x)
""",
    "subject_closed_over": """
import knobs, torch
def make(count):
    def target(x):
        for _ in range(count):
            x = torch.mm(x, x)
        return x
    return target
target = make(knobs.CLOSED_OVER)
""",
    "subject_closed_function": """
import knobs, torch
def make(function):
    def target(x):
        return function(x)
    return target
target = make(knobs.CLOSED_FUNCTION)
""",
    "subject_attribute": """
import knobs, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.count = knobs.ATTRIBUTE
    def forward(self, x):
        for _ in range(self.count):
            x = torch.mm(x, x)
        return x
target = Net()
""",
    "subject_default": """
import knobs, torch
def target(x, count=knobs.DEFAULT):
    for _ in range(count):
        x = torch.mm(x, x)
    return x
""",
    "subject_global": """
import knobs, torch
COUNT = knobs.GLOBAL
def target(x):
    for _ in range(COUNT):
        x = torch.mm(x, x)
    return x
""",
    "subject_function": """
import knobs
function = knobs.FUNCTION
def target(x):
    return function(x)
""",
    "subject_method": """
import knobs, torch
class Net(torch.nn.Module):
    def forward(self, x): return self.inner(x)
Net.inner = knobs.METHOD
target = Net()
""",
    "subject_structure": """
import knobs, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = knobs.SUBMODULE()
    def forward(self, x): return self.inner(x)
target = Net()
""",
    "subject_argument": """
import knobs, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = knobs.SUBMODULE()
    def forward(self, x): return self.inner(x)
def target(net, x):
    return net(x)
def arguments():
    return [[Net(), torch.ones(4, 4) / 3]]
""",
    "subject_decorated": """
import functools, knobs, torch
def repeated(count):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(self, x):
            for _ in range(count):
                x = function(self, x)
            return x
        return wrapper
    return decorate
class Net(torch.nn.Module):
    @repeated(knobs.CLOSED_OVER)
    def forward(self, x):
        return torch.mm(x, x)
target = Net()
""",
    "subject_builtin": """
import knobs, torch
operation = getattr(torch, knobs.BUILTIN)
def target(x):
    return operation(x, x)
""",
}

#: File name -> (what stands there, what stands there instead).
CHANGES: dict[str, tuple[tuple[str, str], ...]] = {
    "knobs": (
        ("= 2", "= 3"),
        ("others.first_method", "others.second_method"),
        ("others.first", "others.second"),
        ("others.First", "others.Second"),
        ('"mm"', '"matmul"'),
    ),
    "inlined": (("torch.mm(x, x)", "torch.mm(x, x.t())"),),
    "subject_source": (("torch.mm(x, x)", "torch.mm(x, x.t())"),),
}

#: Functions that stay as they are, whatever else changes.
LASTING: dict[str, str] = {
    "subject_lasting": """
import torch
def target(x):
    return torch.mm(x.t(), x)
""",
    "subject_training": """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Linear(4, 4, bias=False) for _ in range(2))
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.copy_(torch.arange(16).reshape(4, 4) / 9)
    def forward(self, x):
        return self.second(self.first(x))
target = Net()
def run(model, x):
    target.zero_grad()
    model(x).sum().backward()
    return target.first.weight.grad + target.second.weight.grad
""",
    "subject_shapes": """
import torch
def target(x):
    return torch.mm(x, x.t()) if x.shape[0] > 6 else torch.mm(x.t(), x)
def arguments():
    return [[torch.ones(rows, 4) / 3] for rows in (4, 5, 6, 8, 9)]
""",
    "subject_breaks": """
import torch
def target(x):
    y = torch.mm(x, x)
    torch._dynamo.graph_break()
    z = torch.mm(y, x)
    torch._dynamo.graph_break()
    return torch.mm(z, y.t())
""",
    "subject_type": """
import torch
def target(x):
    return torch.mm(x, x.t()) if type(x) is torch.Tensor else x
""",
    "subject_generated_init": """
import dataclasses, torch
@dataclasses.dataclass
class Output:
    value: torch.Tensor
def target(x):
    return Output(torch.mm(x, x))
def run(function, x):
    return function(x).value
""",
    "in_children": """
import torch
def product(x):
    return torch.mm(x, x)
""",
    "subject_autograd": """
import torch
class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.mm(x, x)
    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return torch.mm(gradient, x.t()) + torch.mm(x.t(), gradient)
def target(x):
    return Twice.apply(x)
""",
}

#: Functions that are left out: something of each cannot be compared in another process.
LEFT_OUT: dict[str, str] = {
    "subject_opaque": """
import torch
@torch._dynamo.allow_in_graph
def opaque(x):
    return torch.mm(x, x)
def target(x):
    return opaque(x)
""",
    "subject_callable": """
import functools, torch
target = functools.partial(torch.mm, torch.eye(4))
""",
    "subject_generated": """
import torch
scope = {"torch": torch}
exec("def target(x): return torch.mm(x, x)", scope)
target = scope["target"]
""",
}
