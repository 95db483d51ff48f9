"""``python -m lib_attn.lab``"""

from lib_attn.lab.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
