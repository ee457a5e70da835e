"""What the reference needs of Sphinx: links from equations to code, and docstrings that link to our own names alone."""

import importlib
import inspect
import pkgutil

import numpydoc.xref
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.domains.python import PyXRefRole
from sphinx.util.docutils import SphinxRole

import cflows


class InCode(SphinxRole):
    """A line such as ``{in-code}`flows.velocity, flows.step```: where the library has the equation above it."""

    def run(self):
        line = nodes.inline("", "In code: ", classes=["in-code"])
        for i, name in enumerate(self.text.split(", ")):
            target = {"refdomain": "py", "reftype": "obj", "reftarget": f"cflows.{name}", "refwarn": True}
            link = pending_xref("", nodes.literal(name, name), refdoc=self.env.docname, **target)
            line += [nodes.Text(", ")] * (i > 0) + [link]
        return [line], []


class Ours(PyXRefRole):
    """A name of the library as short as it can be told apart, which is what backticks in docstrings hold."""

    def process_link(self, env, refnode, has_explicit_title, title, target):
        refnode["refspecific"], refnode["reftype"] = True, "obj"
        return super().process_link(env, refnode, has_explicit_title, title, target)


def _link_own_types(app, config):
    """In the types of parameters our classes are links; those of other projects, whose pages are elsewhere, are not."""
    found = pkgutil.walk_packages(cflows.__path__, "cflows.")
    modules = [importlib.import_module(m.name) for m in found if not m.name.endswith("__main__")]
    own = [c for m in modules for _, c in inspect.getmembers(m, inspect.isclass) if c.__module__ == m.__name__]
    names = [c.__name__ for c in own]
    config.numpydoc_xref_aliases = {
        c.__name__: f"{c.__module__}.{c.__name__}" for c in own if names.count(c.__name__) == 1
    } | {"Optimizer": "cflows.optimizers.Optimizer"}
    config.numpydoc_xref_ignore = "all"
    numpydoc.xref.DEFAULT_LINKS.clear()


def _skip_fields(app, what, name, obj, skip, options):
    """Fields of named tuples: the docstring of their class says what they are."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.add_role("in-code", InCode())
    app.add_role_to_domain("py", "ours", Ours())
    app.connect("config-inited", _link_own_types, priority=400)
    app.connect("autodoc-skip-member", _skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
