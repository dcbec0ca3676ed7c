"""The soak: random traffic over two processes, with faults, in which nothing may go amiss.

``make soak MINUTES=n`` runs it; docs/soak.md tells what it does.  From the top down:

__main__  the command line        run       rounds, one after the other
plan      what a round is, from a seed      path      the network and what befalls it
worker    a process, as seen by the run     endpoint  the same process, from within
sender    a thread that sends               reader    a thread that receives, acknowledges
transmit  one call of sending, accounted    ledger    what became of each transmission
wire      flows, and datagrams that say what they are
verdict   is what became of them in order?  progress  what is told while it runs, and after
sabotage  defects of our own, which the soak must notice
"""
