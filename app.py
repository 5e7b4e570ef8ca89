"""Open the page on a checkpoint: `python app.py --checkpoint sprites-32`."""

import argparse

from rcdm.ui import serve

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Open the RCDM page in a browser.")
    parser.add_argument("--checkpoint", default="sprites-32", help="a name below checkpoints/, a folder or a hub id")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every network")
    parser.add_argument("--port", type=int, help="port; by default the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="also open a public link through Gradio's servers")
    arguments = parser.parse_args()
    try:
        serve(arguments.checkpoint, host=arguments.host, port=arguments.port, share=arguments.share)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
