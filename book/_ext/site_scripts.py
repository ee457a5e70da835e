"""Leave the scripts of sphinx-thebe out of every page: they come twice, which is an error, and no page uses them."""


def _without_thebe(app, pagename, templatename, context, doctree):
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in (str(script) + repr(vars(script))).lower()
    ]


def setup(app):
    app.connect("html-page-context", _without_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
