"""YODAS, both releases: shards of speech with captions -> sets that ESPnet trains on.

layout: where things are, and how they are named
audio: one sample rate, one channel; cutting long recordings
shard: one shard of the corpus -> one archive with its lists
store: all prepared shards, made in parallel, resumable
sets: which shards and videos make a set; its files and its manifest
hub: shards from the Hugging Face hub
"""
