"""YODAS, both releases: shards of speech with captions -> sets that ESPnet trains on.

layout: where things are, and how they are named
audio: one sample rate, one channel; cutting long recordings
writer: what a prepared shard holds
shard: a shard's tar file -> a prepared shard
source: shards from a folder, or from the Hugging Face hub
store: all prepared shards, made in parallel, resumable
selection: which shards and videos make a set
sets: the files of a set
corpus: all of it, for a request
"""
