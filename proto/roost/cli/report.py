"""How a command says what went wrong."""

from rich.console import Console
from rich.markup import escape


def report(message: str, hint: str = "") -> None:
    """Prints an error on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    console.print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        console.print(f"[bold cyan]hint:[/] {escape(hint)}")
