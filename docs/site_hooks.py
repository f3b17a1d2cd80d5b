"""Hooks of mkdocs: pages outside docs/ belong to the site, and links are written as they work on GitHub.

README.md of the repository is the first page. A link to a file that is not a page, such as a recipe or a module,
becomes plain text.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# By their path in the repository, the pages outside docs/ and their path in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "recipes/README.md": "recipes.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for path, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    repository_paths = {uri: path for path, uri in OUTSIDE.items()}
    folder = os.path.dirname(repository_paths.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def rewrite(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        path = os.path.normpath(os.path.join(folder, target))
        uri = OUTSIDE.get(path, path.removeprefix("docs/"))
        is_in_site = path in OUTSIDE or path.startswith("docs/")
        return f"{mark}[{text}]({uri}{anchor or ''})" if is_in_site else text

    return LINK.sub(rewrite, markdown)
