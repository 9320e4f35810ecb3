"""Tables as LaTeX."""

from sweep.tables.blocks import Column, Table
from sweep.tables.formats import Estimate
from sweep.tables.text_files import format_latex


def test_a_table_is_escaped_and_keeps_its_figures() -> None:
    columns = (Column("row", ""), Column("label", "Model & its_hyperparameters"), Column("CIDEr", "CIDEr", "score"))
    rows = (
        {"row": "best", "label": r"lora_rank 8 \input{x}", "CIDEr": Estimate(2.5, 2.25, 2.75)},
        {"row": "zero_shot", "label": "50% <p>~^|#$", "CIDEr": Estimate(-0.25, std=0.125)},
        {"row": "prior", "label": "[prior]\nof two\x07 lines", "CIDEr": None},
    )
    table = Table("test", "Scores\non test", columns, rows, emphasised=[0], notes=("Ranges are 95%.",))
    assert format_latex(table).splitlines() == [
        "% Scores on test",
        "% Ranges are 95%.",
        r"% Needs \usepackage{booktabs,graphicx}.",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\begin{tabular}{lr}",
        r"\toprule",
        r"\shortstack[l]{Model \&\\its\_hyperparameters} & CIDEr \\",
        r"\midrule",
        r"\textbf{lora\_rank 8 \textbackslash{}input\{x\}} & \textbf{2.500} \\[-0.5ex]",
        r" & {\scriptsize 2.250 to 2.750} \\",
        r"50\% \textless{}p\textgreater{}\textasciitilde{}\textasciicircum{}\textbar{}\#\$ & $-$0.250 \\[-0.5ex]",
        r" & {\scriptsize $\pm$ 0.125} \\",
        r"{[}prior] of two lines & -- \\",
        r"\bottomrule",
        r"\end{tabular}}",
    ]
