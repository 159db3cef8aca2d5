"""Memories in the engines that people run: do they answer as plain PEFT does?"""
