"""The rules of the embedded teacher: patterns and their rewrites in plain Python.

A rule is `pattern -> rewrite ; another rewrite`, or `one <-> other` for both ways. Each line of a
table is an operator (the name under which reports count its changes), then rules three or more
spaces apart. \\n and \\t are a new line and one more level of indentation.
To add a rule, add a line.

Capital letters stand for parts of the program:

    A B C D E   any expression                       N   an integer
    X           an expression of several tokens      K   known to be a number
    V           a variable                           Q   known to be a bool
    P R         not known to be a list or string     S   known to be a list or string
                                                     G   known to be a list

and in a rewrite T for a name that the program does not use, and Anext, Aprev and Aneg for A + 1,
A - 1 and -A as a person would write them. patterns.py matches and fills them. A change that no
rule can say is a function in expressions.py, lines.py or blocks.py.
"""

# Changes that are meant to break the program, each of a single node of its tree.
MUTATIONS = r"""
compare      A < B -> A <= B ; A > B ; A >= B   A <= B -> A < B ; A >= B ; A > B
compare      A > B -> A >= B ; A < B ; A <= B   A >= B -> A > B ; A <= B ; A < B   A == B <-> A != B
compare      A in B <-> A not in B   A is B <-> A is not B   A == K -> A > K ; A < K
compare      A <= B <= C -> A < B <= C ; A <= B < C ; A <= C
compare      A <= B < C -> A < B < C ; A <= B <= C ; B < C
compare      A < B < C -> A <= B < C ; A < B <= C ; A < C
arithmetic   P + R -> P - R ; P * R   A - B -> A + B   P * R -> P + R ; P - R ; P / R
arithmetic   A ** B -> A * B   A / B -> A * B ; A // B ; A % B   A // B -> A / B ; A * B ; A % B
arithmetic   P % B -> P // B ; P * B   A & B -> A | B ; A ^ B   A | B -> A & B ; A ^ B
arithmetic   A ^ B -> A & B ; A | B   A << B <-> A >> B   -X -> X   -V -> V ; abs(V)   abs(A) -> -A
operands     A - B -> B - A   A / B -> B / A   A // B -> B // A   P % B -> B % P   A ** B -> B ** A
operands     S + A <-> A + S
term         A + B -> A ; B   A - B -> A   A * B -> A ; B   A / B -> A   A // B -> A   P % B -> P
augmented    A += P -> A -= P ; A = P   A += B -> A = B   A -= B -> A += B ; A = B
augmented    A *= B -> A += B ; A = B   A /= B -> A //= B ; A *= B   A //= B -> A /= B ; A -= B
augmented    A %= B -> A //= B   A |= B <-> A &= B   A ^= B -> A |= B   A >>= B -> A <<= B
parity       A % 2 == 0 <-> A % 2 == 1
constant     True <-> False
negate       not A -> A
range        range(A) -> range(1, A) ; range(Anext) ; range(Aprev)
range        range(A, B) -> range(Anext, B) ; range(Aprev, B) ; range(A, Bnext) ; range(A, Bprev)
range        range(A, B, C) -> range(A, Bnext, C) ; range(A, Bprev, C)
range        range(A, B, C) -> range(A, B) ; range(Anext, B, C)
index        A[P] -> A[Pnext] ; A[Pprev]
slice        A[B:] -> A[:B] ; A[Bnext:] ; A[Bprev:] ; A[Bneg:] ; A[:Bneg]
slice        A[:B] -> A[B:] ; A[:Bnext] ; A[:Bprev] ; A[:Bneg] ; A[Bneg:]
slice        A[B:C] -> A[Bnext:C] ; A[Bprev:C] ; A[B:Cnext] ; A[B:Cprev] ; A[B:] ; A[:C]
slice        A[::B] -> A[B:] ; A[:B]
slice        A[::-1] -> A[:-1] ; A[1:] ; A[::-2] ; A[::2]
slice        A[B::C] -> A[::C] ; A[Bnext::C] ; A[B::Cnext]
order        sorted(A) -> sorted(A, reverse=True) ; A
order        sorted(A, reverse=True) -> sorted(A) ; A[::-1]
order        sorted(A, key=B) -> sorted(A) ; sorted(A, key=B, reverse=True)
order        sorted(A, key=B, reverse=True) -> sorted(A, key=B) ; sorted(A, reverse=True)
order        A[::-1] -> sorted(A, reverse=True) ; sorted(A)
order        A.sort() -> A.sort(reverse=True) ; A.reverse()
order        A.sort(reverse=True) -> A.sort() ; A.reverse()
unwrap       abs(A) -> A   int(A) -> A   round(A, B) -> A   set(A) -> A   str(A) -> A
unwrap       min(A, B) -> A ; B   max(A, B) -> A ; B
method       A.append(B) -> A.insert(0, B) ; A.extend(B)   A.insert(0, B) -> A.append(B)
method       A.extend(B) -> A.append(B)
filter       [A for B in C if D] -> [A for B in C]   (A for B in C if D) -> (A for B in C)
filter       {A for B in C if D} -> {A for B in C}   {A: E for B in C if D} -> {A: E for B in C}
filter       [X for V in C] -> [V for V in C]
conditional  A if B else C -> C if B else A ; A ; C
return       return A -> return None   return K -> return Knext ; return Kprev ; return -K
return       return S -> return S[1:] ; return S[::-1]
unpack       A, B = C, D -> A, B = D, C
jump         break <-> continue
"""

# Changes that are meant to keep what the program does.
REFACTORINGS = r"""
commute        P + R -> R + P   A * B -> B * A   A & B -> B & A   A | B -> B | A   A ^ B -> B ^ A
mirror         A == B -> B == A   A != B -> B != A   A < B <-> B > A   A <= B <-> B >= A
not            A == B <-> not A != B   A != B <-> not A == B   A not in B <-> not A in B
not            A < B <-> not A >= B   A >= B <-> not A < B   A > B <-> not A <= B
not            A <= B <-> not A > B
boundary       A > N -> A >= Nnext   A >= N -> A > Nprev   A < N -> A <= Nprev   A <= N -> A < Nnext
parity         A % 2 == 0 -> not A % 2 ; A % 2 != 1   A % 2 != 0 <-> A % 2 == 1
empty          len(A) == 0 -> not A ; len(A) < 1   not S -> len(S) == 0
empty          len(A) > 0 <-> len(A) != 0   len(A) > 0 -> len(A) >= 1
chain          A < B and B < C <-> A < B < C   A <= B and B <= C <-> A <= B <= C
chain          A <= B and B < C <-> A <= B < C
chain          A >= B and A <= C -> B <= A <= C   A > B and A < C -> B < A < C
chain          A == B or A == C -> A in (B, C)   A != B and A != C -> A not in (B, C)
augmented      A += B <-> A = A + B   A -= B <-> A = A - B   A *= B <-> A = A * B
augmented      A /= B <-> A = A / B   A //= B <-> A = A // B   A %= B <-> A = A % B
augmented      A **= B <-> A = A ** B   A |= B <-> A = A | B   A &= B <-> A = A & B
augmented      A ^= B <-> A = A ^ B   A >>= B <-> A = A >> B   V = K + V -> V += K
power          V ** 2 <-> V * V   A ** B <-> pow(A, B)   2 * V -> V + V
half           A / 2 -> A * 0.5 ; 0.5 * A   A // N -> int(A / N)
range          range(0, A) <-> range(A)   range(A, B) <-> range(A, B, 1)
index          A[len(A) - 1] -> A[-1]
slice          A[:B] <-> A[0:B]   A[B:] <-> A[B:len(A)]
reverse        G[::-1] -> list(reversed(G))   sorted(A, reverse=True) <-> sorted(A)[::-1]
unpacking      A + [B] -> [*A, B]   [B] + A -> [B, *A]   G[A:] + G[:B] -> [*G[A:], *G[:B]]
empty literal  [] <-> list()   {} <-> dict()
min max        min(A, B) -> min(B, A) ; A if A < B else B
min max        max(A, B) -> max(B, A) ; A if A > B else B
min max        max(A, default=B) -> max(A) if A else B   min(A, default=B) -> min(A) if A else B
sort           V = sorted(A) -> V = list(A)\nV.sort()
sort           V = sorted(A, reverse=True) -> V = list(A)\nV.sort(reverse=True)
comprehension  [A for B in C] <-> list(A for B in C)
comprehension  [A for B in C if D] -> list(A for B in C if D)
comprehension  [V for V in C] -> list(C)   [X for V in C] -> list(map(lambda V: X, C))
comprehension  [V for V in C if D] <-> list(filter(lambda V: D, C))
comprehension  list(map(lambda V: A, C)) -> [A for V in C]
comprehension  list(map(A, B)) -> [A(T) for T in B]   tuple(map(A, B)) -> tuple(A(T) for T in B)
comprehension  sum([A for B in C]) <-> sum(A for B in C)
comprehension  A.join([B for C in D]) <-> A.join(B for C in D)
comprehension  set([A for B in C]) -> {A for B in C}   list(set(A)) -> [*set(A)]
keys           A in B.keys() -> A in B
str            str(A) -> f"{A}"
append         V.append(B) -> V += [B] ; V.extend([B]) ; V.insert(len(V), B)
append         V += [B] -> V.append(B)
append         V = V + [B] -> V.append(B)   V.extend(B) -> V += B
conditional    A if B else C -> C if not B else A   True if Q else False -> Q
conditional    return Q -> return True if Q else False ; if Q:\n\treturn True\nreturn False
conditional    return A if B else C -> if B:\n\treturn A\nreturn C ; if not B:\n\treturn C\nreturn A
conditional    V = A if B else C -> if B:\n\tV = A\nelse:\n\tV = C ; V = C\nif B:\n\tV = A
loop           V = [A for B in C] -> T = []\nfor B in C:\n\tT.append(A)\nV = T
loop           V = [A for B in C if D] -> T = []\nfor B in C:\n\tif D:\n\t\tT.append(A)\nV = T
loop           return [A for B in C] -> T = []\nfor B in C:\n\tT.append(A)\nreturn T
loop           return [A for B in C if D] -> T = []\nfor B in C:\n\tif D:\n\t\tT.append(A)\nreturn T
loop           return sum(A for B in C) -> T = 0\nfor B in C:\n\tT += A\nreturn T
loop           return all(A for B in C) -> for B in C:\n\tif not A:\n\t\treturn False\nreturn True
loop           return any(A for B in C) -> for B in C:\n\tif A:\n\t\treturn True\nreturn False
unpack         A, B = C, D -> T = C\nB = D\nA = T
temporary      return X -> T = X\nreturn T
"""

# Refactorings of a condition, of which only the truth counts.
TEST_REFACTORINGS = r"""
truth          len(A) > 0 -> A   len(A) != 0 -> A   A % 2 == 1 -> A % 2   A % 2 != 0 -> A % 2
truth          A == True -> A   A == False -> not A
"""

# Rules for a compound statement together with the statements before and after it.
BLOCK_MUTATIONS = r"""
conditional    if A:\n\treturn B\nelse:\n\treturn C -> if A:\n\treturn C\nelse:\n\treturn B
conditional    if A:\n\treturn B\nelse:\n\treturn C -> return B
conditional    if A:\n\treturn B\nreturn C -> if A:\n\treturn C\nreturn B ; return C
conditional    if A:\n\tV = B\nelse:\n\tV = C -> if A:\n\tV = C\nelse:\n\tV = B ; V = B
search  for A in B:\n\tif C:\n\t\treturn D\nreturn E -> for A in B:\n\tif C:\n\t\treturn E\nreturn D
"""

BLOCK_REFACTORINGS = r"""
conditional    if A:\n\treturn B\nelse:\n\treturn C -> return B if A else C
conditional    if A:\n\treturn B\nelse:\n\treturn C -> if not A:\n\treturn C\nelse:\n\treturn B
conditional    if A:\n\treturn B\nelse:\n\treturn C <-> if A:\n\treturn B\nreturn C
conditional    if A:\n\treturn B\nreturn C -> return B if A else C ; if not A:\n\treturn C\nreturn B
conditional    if A:\n\tV = B\nelse:\n\tV = C -> V = B if A else C ; V = C\nif A:\n\tV = B
loop           V = []\nfor A in B:\n\tV.append(C) -> V = [C for A in B]
loop           V = []\nfor A in B:\n\tif D:\n\t\tV.append(C) -> V = [C for A in B if D]
loop           V = 0\nfor A in B:\n\tV += C -> V = sum(C for A in B)
loop           V = 0\nfor A in B:\n\tV = V + C -> V = sum(C for A in B)
loop           V = 0\nfor A in B:\n\tif D:\n\t\tV += C -> V = sum(C for A in B if D)
loop           V = 0\nfor A in B:\n\tif D:\n\t\tV = V + C -> V = sum(C for A in B if D)
search         for A in B:\n\tif C:\n\t\treturn True\nreturn False -> return any(C for A in B)
search         for A in B:\n\tif C:\n\t\treturn False\nreturn True -> return not any(C for A in B)
"""

# Families of functions and methods: one stands in for another of its family.
SIBLINGS = """
min max sum     any all     list set     int float     abs int     floor ceil     sin cos tan
sqrt exp log    degrees radians     lower upper     title capitalize     strip lstrip rstrip
startswith endswith     find rfind     split rsplit     isupper islower     isdigit isalpha isalnum
search match    append extend     pop remove     add discard     keys values items
union intersection difference     nlargest nsmallest     combinations permutations
bisect_left bisect_right
"""
