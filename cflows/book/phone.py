"""Figures drawn a second time, for a phone: panels under one another, in the width of its screen, with type as large.

The build asks for it (`media.publishing`): a notebook then holds both drawings of a figure, and a page shows the one
that suits the reader's screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

#: What the second drawing of a figure is called in the output of a cell.
MIME = "application/vnd.cflows.phone+svg"
#: In inches; at this width ten points are twelve pixels of a phone with 390.
WIDTH = 3.9
#: Of a panel whose axes have different units, in inches: flat enough that two of them fit a screen.
MAX_HEIGHT, MIN_HEIGHT = 2.5, 1.5
#: Of a panel if there are more than so many under one another.
LOW, MANY = 1.8, 4
#: A legend that covers a larger share of its panel than this goes below the panel.
MAX_LEGEND = 0.3


def restack(fig: Figure) -> Figure:
    """Change a figure into its drawing for a phone.

    Panels that stood side by side stand under one another, as many beside each other as fit with the width that they
    had. Each has its own tick labels then.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        Changed. Axes outside a grid, such as insets, move with their panels.

    Returns
    -------
    matplotlib.figure.Figure
        The same.
    """
    width, height = fig.get_size_inches()
    panels = [ax for ax in fig.axes if ax.get_subplotspec() is not None and ax.get_visible()]
    grids = {ax.get_subplotspec().get_topmost_subplotspec().get_gridspec() for ax in panels}  # type: ignore[union-attr]
    bars = any(getattr(ax, "_colorbar", None) for ax in fig.axes)
    if len(grids) != 1 or fig.subfigs or bars:
        fig.set_size_inches(WIDTH, min(height, 1.25 * WIDTH * height / width))
        return fig
    (grid,) = grids
    spots: dict[tuple[int, int], list[Axes]] = {}  # with the axes that share each, as twins do
    for ax in panels:
        spec = ax.get_subplotspec()
        spots.setdefault((spec.num1, spec.num2), []).append(ax)  # type: ignore[union-attr]
    columns = max(1, min(grid.ncols, int(WIDTH / (width / grid.ncols))))
    part = (len(spots) <= MANY or columns > 1, width / grid.ncols, height / grid.nrows, WIDTH / columns)
    headed = columns == 1 and _headed(spots, grid.ncols)
    order = sorted(spots, key=(lambda spot: (spot[0] % grid.ncols, spot[0])) if headed else None)
    tall = [max(_height(ax, *part) for ax in spots[spot]) for spot in order]
    if columns < grid.ncols:
        rows = -(-len(spots) // columns)
        heights = [max(tall[row * columns : (row + 1) * columns]) for row in range(rows)]
        new = GridSpec(rows, columns, figure=fig, height_ratios=heights)
        for i, spot in enumerate(order):
            row = spot[0] // grid.ncols
            for ax in spots[spot]:
                if len(spots[spot]) == 1:
                    first = [x for other in sorted(spots) if other[0] // grid.ncols == row for x in spots[other]]
                    others = [other for other in panels if ax.get_shared_y_axes().joined(ax, other)]
                    _name_values(ax, [*others, *(first if headed else [])], alone=columns == 1)
                ax.set_subplotspec(new[i])
        stack = [spots[spot] for spot in order]
        _name_steps(stack, columns)
        if columns > 1:
            _name_once(stack, columns)
        total = sum(heights)
    else:
        rows = grid.nrows
        total = min(height, max(tall) * rows) if max(tall) > MAX_HEIGHT else min(height, 2.2 * rows)
        total = max(total, MIN_HEIGHT * rows)
    fig.set_size_inches(WIDTH, total)
    for ax in fig.axes:
        _move_legend(ax)
    _narrow_legends(fig)
    return fig


def _headed(spots: Mapping[tuple[int, int], Sequence[Axes]], columns: int) -> bool:
    """Whether the titles of the panels are those of columns: in the first row, and nowhere else."""
    rows = [bool(spots[spot][0].get_title(loc="left")) for spot in sorted(spots)]
    return all(rows[:columns]) and not any(rows[columns:]) and len(rows) > columns


def _height(ax: Axes, few: bool, width: float, height: float, new_width: float) -> float:
    """How tall a panel is to be: as before in proportion where both axes have one unit."""
    if ax.get_aspect() != "auto":
        return height / width * new_width
    return min(max(height, MIN_HEIGHT), MAX_HEIGHT if few else LOW)


def _name_values(ax: Axes, row: Sequence[Axes], alone: bool) -> None:
    """Tick labels, and the name of the values, which a panel had from the first of its row."""
    ax.tick_params(labelleft=ax.yaxis.get_visible() and bool(ax.get_yticks().size))
    if alone and not ax.get_ylabel():
        ax.set_ylabel(next((other.get_ylabel() for other in row if other.get_ylabel()), ""))


def _name_once(stack: Sequence[Sequence[Axes]], columns: int) -> None:
    """What all panels have for values, named at the first one of each row."""
    names = {ax.get_ylabel() for axes in stack for ax in axes} - {""}
    if len(names) == 1:
        (name,) = names
        for i, axes in enumerate(stack):
            axes[0].set_ylabel("" if i % columns else name)


def _name_steps(stack: Sequence[Sequence[Axes]], columns: int) -> None:
    """Tick labels and a name below the last panel of those under one another that share an axis, and nowhere else."""
    names = {ax: ax.get_xlabel() for axes in stack for ax in axes}
    for i, axes in enumerate(stack):
        below = [ax for spot in stack[i + columns : i + columns + 1] for ax in spot]
        for ax in axes:
            shared = ax.get_shared_x_axes()
            if others := [other for other in names if other is not ax and shared.joined(ax, other)]:
                last = not set(below) & set(others)
                ax.tick_params(labelbottom=last)
                ax.set_xlabel(next((names[x] for x in (ax, *others) if names[x]), "") if last else "")


def _move_legend(ax: Axes) -> None:
    """A legend that would cover what it names, below the panel."""
    figure = cast(Figure, ax.get_figure())
    if not (legend := ax.get_legend()):
        return
    figure.canvas.draw()
    box, panel = legend.get_window_extent(), ax.get_window_extent()
    if box.width * box.height > MAX_LEGEND * panel.width * panel.height or box.width > 0.8 * panel.width:
        legend.set_loc("upper left")
        legend.set_bbox_to_anchor((0, -0.28 if ax.get_xlabel() else -0.16), transform=ax.transAxes)


def _narrow_legends(fig: Figure) -> None:
    """Legends of the figure that are wider than a phone, in two columns or one."""
    for legend in [*fig.legends]:
        if legend.get_window_extent().width <= fig.bbox.width:
            continue
        names = [text.get_text() for text in legend.get_texts()]
        size, above = legend.get_texts()[0].get_fontsize(), legend.get_window_extent().y0 > fig.bbox.height / 2
        legend.remove()
        handles = [handle for handle in legend.legend_handles if handle is not None]
        for columns in (2, 1):
            narrow = fig.legend(
                handles,
                names,
                ncols=columns,
                fontsize=size,
                loc="outside upper left" if above else "outside lower center",
            )
            if columns == 1 or narrow.get_window_extent().width <= fig.bbox.width:
                break
            narrow.remove()


def draw_both() -> None:
    """In a notebook, let each figure that is shown be drawn twice; it is left as `restack` leaves it."""
    from IPython import get_ipython
    from IPython.core.pylabtools import print_figure

    formatter = get_ipython().display_formatter

    def both(fig: Figure, include=None, exclude=None) -> dict[str, str]:
        # A printer of the one format would be asked after this one, and draw the figure as `restack` leaves it.
        formatter.formatters["image/svg+xml"].pop(Figure, None)
        wide = print_figure(fig, "svg")
        return {"image/svg+xml": wide, MIME: print_figure(restack(fig), "svg")} if wide else {}

    formatter.mimebundle_formatter.for_type(Figure, both)
