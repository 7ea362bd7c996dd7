"""Preparation of YODAS (both releases): shards of captioned speech to ESPnet's sets.

layout: folders, file names and ids
audio: conversion to one sample rate and one channel; cutting of long recordings
writer: files of a prepared shard
shard: conversion of a shard's tar file to a prepared shard
source: shards in a folder or on the Hugging Face hub
store: parallel, resumable preparation of all shards
selection: choice of the shards and videos of a set
sets: files of a set
corpus: all steps for one request
prepare: requests from the user's options, or from an earlier set's manifest
"""
