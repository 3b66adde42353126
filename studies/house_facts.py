"""Counts facts about the package that say how easy it is to read and to change.

    python studies/house_facts.py [CHECKOUT ...]

Prints one column per checkout (default: this one). Code lines are lines with code: no comments,
docstrings or blank lines. "Files to touch" is estimated by an example that exists already: the
package's files whose code names DenseNet (a backbone), the ImageNet folder (a source), LARS (an
optimiser).
"""

import argparse
import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = {
    "files of a backbone (DenseNet)": r"densenet",
    "files of a source (ImageNet)": r"imagenet|image_?folder|pictures?(_|\b)",
    "files of an optimiser (LARS)": r"(?<![a-z])lars(?![a-z])",
}


def docstring_lines(tree: ast.AST) -> set[int]:
    """Returns the numbers of the lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def code_lines(file: Path, tree: ast.AST) -> dict[int, str]:
    """Returns the code of a file by line: without comments and docstrings."""
    skipped = docstring_lines(tree)
    lines: dict[int, list[str]] = {}
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    with tokenize.open(file) as opened:
        for token in tokenize.generate_tokens(opened.readline):
            if token.type in (*layout, tokenize.ENDMARKER):
                continue
            for number in range(token.start[0], token.end[0] + 1):
                if number not in skipped:
                    lines.setdefault(number, []).append(token.string)
    return {number: " ".join(words) for number, words in lines.items()}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def takes_cfg(function: ast.FunctionDef) -> bool:
    """Returns whether a function takes the whole configuration without being a builder or a run."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = {argument.arg for argument in arguments}
    return "cfg" in names and not function.name.startswith(("build_", "run_"))


def facts(checkout: Path) -> dict[str, float]:
    """Returns all facts of one checkout, by name."""
    package = checkout / "octvideo"
    files = sorted(package.rglob("*.py"))
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    code = {file: code_lines(file, tree) for file, tree in trees.items()}
    texts = {file: "\n".join(lines.values()) for file, lines in code.items()}
    joined, total = "\n".join(texts.values()), sum(map(len, code.values()))
    imports = len(re.findall(r"from typing import[^\n]*\bAny\b", joined))
    outside = [tree for file, tree in trees.items() if file.parent.name != "config"]
    sizes = [f.end_lineno - f.lineno + 1 for t in trees.values() for f in functions(t)]
    result: dict[str, float] = {
        "files": len(files),
        "lines": sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files),
        "code lines": total,
        "Any per 1,000 code lines": (len(re.findall(r"\bAny\b", joined)) - imports) * 1000 / total,
        "isinstance per 1,000 code lines": joined.count("isinstance (") * 1000 / total,
        "functions that take cfg": sum(takes_cfg(f) for tree in outside for f in functions(tree)),
        "functions over 50 lines": sum(size > 50 for size in sizes),
        "files over 400 lines": sum(len(f.read_text().splitlines()) > 400 for f in files),
    }
    for name, word in EXAMPLES.items():
        pattern = re.compile(word, re.IGNORECASE)
        result[name] = sum(bool(pattern.search(text)) for text in texts.values())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("checkouts", nargs="*", type=Path, default=[here])
    columns = [facts(checkout) for checkout in parser.parse_args().checkouts]
    for name in columns[0]:
        digits = 1 if "per 1,000" in name else 0
        print(f"{name:<34}" + "".join(f"{column[name]:>10,.{digits}f}" for column in columns))


if __name__ == "__main__":
    main()
