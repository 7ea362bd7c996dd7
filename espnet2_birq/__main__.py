"""``python -m espnet2_birq NAME``: the command ``birq`` without an installation."""

from espnet2_birq.bin.birq import main

if __name__ == "__main__":
    main()
